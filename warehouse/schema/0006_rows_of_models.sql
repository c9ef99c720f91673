-- Which rows of a release a model was trained on: those that a step drew, and not all that it might have drawn.
CREATE TABLE model_rows (model VARCHAR, row_id VARCHAR);
