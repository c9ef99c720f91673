-- Run once, when the data folder is empty: the catalog of the lake, beside the database of Dagster's run history.
CREATE DATABASE lake;
