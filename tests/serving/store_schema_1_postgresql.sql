-- A service's store as the first version of its schema left it.
SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.events (
    number bigint NOT NULL,
    event_key character varying(128),
    "user" character varying(128) NOT NULL,
    item character varying(128) NOT NULL,
    kind character varying(16) NOT NULL,
    value double precision,
    "time" double precision NOT NULL,
    received double precision NOT NULL,
    request character varying(64),
    accepted boolean NOT NULL
);
CREATE SEQUENCE public.events_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.events_number_seq OWNED BY public.events.number;
CREATE TABLE public.exposures (
    number bigint NOT NULL,
    request character varying(64) NOT NULL,
    "user" character varying(128) NOT NULL,
    "time" double precision NOT NULL,
    model character varying(64) NOT NULL,
    experiment character varying(128) NOT NULL,
    variant character varying(128) NOT NULL,
    item character varying(128),
    propensity double precision,
    score double precision,
    greedy_item character varying(128),
    greedy_score double precision
);
CREATE SEQUENCE public.exposures_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.exposures_number_seq OWNED BY public.exposures.number;
CREATE TABLE public.forgotten (
    digest character varying(64) NOT NULL,
    "time" double precision NOT NULL
);
CREATE TABLE public.settings (
    name character varying(64) NOT NULL,
    value text NOT NULL
);
CREATE VIEW public.training_interactions AS
 SELECT e."user",
    e.item,
    COALESCE(e.value, (1.0)::double precision) AS value,
        CASE
            WHEN ((e."time" > ('-9223372036854776000'::numeric)::double precision) AND (NOT ((e."time" = (0)::double precision) AND (e.received = (0)::double precision)))) THEN e."time"
            ELSE NULL::double precision
        END AS "time",
    e.number
   FROM public.events e
  WHERE (e.accepted AND ((e.kind)::text = ANY ((ARRAY['imported'::character varying, 'click'::character varying, 'like'::character varying, 'buy'::character varying, 'rating'::character varying])::text[])) AND (NOT (EXISTS ( SELECT 1
           FROM public.events d
          WHERE (((d."user")::text = (e."user")::text) AND ((d.item)::text = (e.item)::text) AND ((d.kind)::text = 'dislike'::text) AND d.accepted AND (d.number > e.number))))));
ALTER TABLE ONLY public.events ALTER COLUMN number SET DEFAULT nextval('public.events_number_seq'::regclass);
ALTER TABLE ONLY public.exposures ALTER COLUMN number SET DEFAULT nextval('public.exposures_number_seq'::regclass);
INSERT INTO public.events VALUES (1, NULL, 'user-0', 'i0', 'imported', NULL, 1600000000, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (2, NULL, 'user-0', 'i1', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (3, NULL, 'user-0', 'i2', 'imported', NULL, 1600000002, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (4, NULL, 'user-0', 'i3', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (5, NULL, 'user-1', 'i0', 'imported', NULL, 1600000000, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (6, NULL, 'user-1', 'i1', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (7, NULL, 'user-1', 'i2', 'imported', NULL, 1600000002, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (8, NULL, 'user-1', 'i3', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (9, NULL, 'user-2', 'i0', 'imported', NULL, 1600000000, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (10, NULL, 'user-2', 'i1', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (11, NULL, 'user-2', 'i2', 'imported', NULL, 1600000002, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (12, NULL, 'user-2', 'i3', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (13, NULL, 'user-3', 'i0', 'imported', NULL, 1600000000, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (14, NULL, 'user-3', 'i1', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (15, NULL, 'user-3', 'i2', 'imported', NULL, 1600000002, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (16, NULL, 'user-3', 'i3', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (17, NULL, 'user-4', 'i0', 'imported', NULL, 1600000000, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (18, NULL, 'user-4', 'i1', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (19, NULL, 'user-4', 'i2', 'imported', NULL, 1600000002, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (20, NULL, 'user-4', 'i3', 'imported', NULL, -9.223372036854776e+18, 1796044315.862503, NULL, true);
INSERT INTO public.events VALUES (25, 'key-0', 'user-0', 'i10', 'buy', NULL, 1700000000, 1700000001, 'ab', true);
INSERT INTO public.events VALUES (26, 'key-1', 'user-1', 'i10', 'buy', NULL, 1700000001, 1700000002, 'ab', true);
INSERT INTO public.events VALUES (27, 'key-2', 'user-2', 'i10', 'buy', NULL, 1700000002, 1700000003, 'ab', true);
INSERT INTO public.events VALUES (28, 'key-3', 'user-3', 'i10', 'buy', NULL, 1700000003, 1700000004, 'ab', true);
INSERT INTO public.events VALUES (29, 'key-4', 'user-4', 'i10', 'buy', NULL, 1700000004, 1700000005, 'ab', true);
INSERT INTO public.events VALUES (31, 'low', 'user-1', 'i11', 'rating', 1, 1700000000, 1700000000, NULL, true);
INSERT INTO public.events VALUES (32, 'r', 'robot', 'i12', 'click', NULL, 1700000000, 1700000000, NULL, false);
INSERT INTO public.exposures VALUES (1, 'ab', 'user-2', 1700000000, 'm', 'e', 'new', 'i3', 0.5, 1, 'i3', 1);
INSERT INTO public.forgotten VALUES ('d27b8f569655bc2cb3f94ad51e6793e3073c8afc082d4462a6ce87a731b9339e', 1700000050);
INSERT INTO public.settings VALUES ('opened', '1796044315.8513584');
INSERT INTO public.settings VALUES ('schema', '1');
INSERT INTO public.settings VALUES ('view', '2');
INSERT INTO public.settings VALUES ('imported', 'file');
SELECT pg_catalog.setval('public.events_number_seq', 32, true);
SELECT pg_catalog.setval('public.exposures_number_seq', 1, true);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_event_key_key UNIQUE (event_key);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.exposures
    ADD CONSTRAINT exposures_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.forgotten
    ADD CONSTRAINT forgotten_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY public.settings
    ADD CONSTRAINT settings_pkey PRIMARY KEY (name);
CREATE INDEX ix_events_user ON public.events USING btree ("user", number);
CREATE INDEX ix_exposures_request ON public.exposures USING btree (request);
CREATE INDEX ix_exposures_user ON public.exposures USING btree ("user");
