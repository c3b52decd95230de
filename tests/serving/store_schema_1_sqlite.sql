-- A service's store as the first version of its schema left it.
BEGIN TRANSACTION;
CREATE TABLE events (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	event_key VARCHAR(128), 
	user VARCHAR(128) NOT NULL, 
	item VARCHAR(128) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	value DOUBLE, 
	time DOUBLE NOT NULL, 
	received DOUBLE NOT NULL, 
	request VARCHAR(64), 
	accepted BOOLEAN NOT NULL, 
	UNIQUE (event_key)
);
INSERT INTO "events" VALUES(1,NULL,'user-0','i0','imported',NULL,1600000000.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(2,NULL,'user-0','i1','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(3,NULL,'user-0','i2','imported',NULL,1600000002.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(4,NULL,'user-0','i3','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(5,NULL,'user-1','i0','imported',NULL,1600000000.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(6,NULL,'user-1','i1','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(7,NULL,'user-1','i2','imported',NULL,1600000002.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(8,NULL,'user-1','i3','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(9,NULL,'user-2','i0','imported',NULL,1600000000.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(10,NULL,'user-2','i1','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(11,NULL,'user-2','i2','imported',NULL,1600000002.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(12,NULL,'user-2','i3','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(13,NULL,'user-3','i0','imported',NULL,1600000000.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(14,NULL,'user-3','i1','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(15,NULL,'user-3','i2','imported',NULL,1600000002.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(16,NULL,'user-3','i3','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(17,NULL,'user-4','i0','imported',NULL,1600000000.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(18,NULL,'user-4','i1','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(19,NULL,'user-4','i2','imported',NULL,1600000002.0,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(20,NULL,'user-4','i3','imported',NULL,-9.2233720368547758078e+18,1.79604431327149057385e+09,NULL,1);
INSERT INTO "events" VALUES(25,'key-0','user-0','i10','buy',NULL,1700000000.0,1700000001.0,'ab',1);
INSERT INTO "events" VALUES(26,'key-1','user-1','i10','buy',NULL,1700000001.0,1700000002.0,'ab',1);
INSERT INTO "events" VALUES(27,'key-2','user-2','i10','buy',NULL,1700000002.0,1700000003.0,'ab',1);
INSERT INTO "events" VALUES(28,'key-3','user-3','i10','buy',NULL,1700000003.0,1700000004.0,'ab',1);
INSERT INTO "events" VALUES(29,'key-4','user-4','i10','buy',NULL,1700000004.0,1700000005.0,'ab',1);
INSERT INTO "events" VALUES(31,'low','user-1','i11','rating',1.0,1700000000.0,1700000000.0,NULL,1);
INSERT INTO "events" VALUES(32,'r','robot','i12','click',NULL,1700000000.0,1700000000.0,NULL,0);
CREATE TABLE exposures (
	number INTEGER NOT NULL, 
	request VARCHAR(64) NOT NULL, 
	user VARCHAR(128) NOT NULL, 
	time DOUBLE NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	experiment VARCHAR(128) NOT NULL, 
	variant VARCHAR(128) NOT NULL, 
	item VARCHAR(128), 
	propensity DOUBLE, 
	score DOUBLE, 
	greedy_item VARCHAR(128), 
	greedy_score DOUBLE, 
	PRIMARY KEY (number)
);
INSERT INTO "exposures" VALUES(1,'ab','user-2',1700000000.0,'m','e','new','i3',0.5,1.0,'i3',1.0);
CREATE TABLE forgotten (
	digest VARCHAR(64) NOT NULL, 
	time DOUBLE NOT NULL, 
	PRIMARY KEY (digest)
);
INSERT INTO "forgotten" VALUES('d27b8f569655bc2cb3f94ad51e6793e3073c8afc082d4462a6ce87a731b9339e',1700000050.0);
CREATE TABLE settings (
	name VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "settings" VALUES('opened','1796044313.2416775');
INSERT INTO "settings" VALUES('schema','1');
INSERT INTO "settings" VALUES('view','2');
INSERT INTO "settings" VALUES('imported','file');
CREATE INDEX ix_events_user ON events (user, number);
CREATE INDEX ix_exposures_request ON exposures (request);
CREATE INDEX ix_exposures_user ON exposures (user);
CREATE VIEW training_interactions AS 
SELECT e."user" AS "user", e.item AS item, COALESCE(e.value, 1.0) AS value,
CASE WHEN e.time > -9.223372036854776e+18 AND NOT (e.time = 0 AND e.received = 0) THEN e.time END AS time, e.number AS number
FROM events e
WHERE e.accepted AND e.kind IN ('imported', 'click', 'like', 'buy', 'rating')
AND NOT EXISTS (
    SELECT 1 FROM events d
    WHERE d."user" = e."user" AND d.item = e.item AND d.kind = 'dislike' AND d.accepted AND d.number > e.number
);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',32);
COMMIT;
