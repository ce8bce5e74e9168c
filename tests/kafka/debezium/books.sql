-- The tables whose changes are recorded, and the rows that a snapshot reads.
CREATE TABLE public.books (
    id int4 PRIMARY KEY,
    name text NOT NULL,
    description text,
    author text,
    year int,
    score numeric(10, 2),
    born date,
    at timestamptz,
    seen timestamp,
    tags text[],
    doc jsonb,
    raw bytea,
    uid uuid,
    ratio float8
);
-- Large values outside of the row, uncompressed, so that an update leaves them out when it does not touch them.
ALTER TABLE public.books ALTER COLUMN description SET STORAGE EXTERNAL;

CREATE TABLE public.shelves (
    room text,
    place text,
    label text,
    PRIMARY KEY (room, place)
);

INSERT INTO public.books VALUES
    (1, 'Die Wolken', 'What the sky does, and why.', 'A. Himmel', 1987, 12.50, '1950-02-28',
     '2026-11-01 09:30:00.123456+02', '2026-11-01 09:30:00.5', '{sky,"two words",NULL}',
     '{"pages": 210, "languages": ["de", "en"]}', '\x00ff10', '6f9619ff-8b86-d011-b42d-00c04fc964ff', 0.1),
    (2, 'Nichts', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.shelves VALUES ('north', '1a', 'Weather');
