-- What was taken back: by which selector, who did it, when and why. selector is source, query or license.
CREATE TABLE retractions (
    retraction VARCHAR, selector VARCHAR, value VARCHAR, reason VARCHAR, who VARCHAR, retracted_at VARCHAR,
    code_version VARCHAR
);
-- What a retraction reached. unit is row, release or model; successor is the release that stands in a release's place.
CREATE TABLE retraction_marks (
    retraction VARCHAR, unit VARCHAR, id VARCHAR, release VARCHAR, successor VARCHAR
);
-- A release that was made from another one by taking rows out of it names that one and the retraction.
ALTER TABLE releases ADD COLUMN parent VARCHAR;
ALTER TABLE releases ADD COLUMN retraction VARCHAR;
