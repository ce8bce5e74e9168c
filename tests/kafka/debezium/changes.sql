-- What happens after the snapshot, a transaction per statement.
INSERT INTO public.books VALUES
    (3, 'Ein langes Buch',
     -- 9,600 characters that do not repeat, the same each time.
     (SELECT string_agg(md5(number::text), '' ORDER BY number) FROM generate_series(1, 300) AS number),
     'B. Lang', -44, -0.01, '0044-03-15 BC', '1969-12-31 23:59:59.999999+00', '1969-07-20 20:17:40', '{}',
     '[1, 2.5, null, "ü"]', '\x', '00000000-0000-0000-0000-000000000000', 'NaN');
UPDATE public.books SET score = 99999999.99, year = 1988, name = 'Die Wolken "II" – ☁' WHERE id = 1;
-- The description is not sent.
UPDATE public.books SET score = 3.00, ratio = 1e300 WHERE id = 3;
-- The primary key changes, and the description is not sent.
UPDATE public.books SET id = 30 WHERE id = 3;
DELETE FROM public.books WHERE id = 2;
INSERT INTO public.shelves VALUES ('south', '2"b', 'History');
UPDATE public.shelves SET label = 'Old history' WHERE room = 'south';
UPDATE public.shelves SET room = 'süd' WHERE room = 'south';
DELETE FROM public.shelves WHERE room = 'süd';
-- Several rows in one transaction.
BEGIN;
INSERT INTO public.books (id, name) VALUES (4, 'Eins'), (5, 'Zwei');
UPDATE public.books SET name = 'Drei' WHERE id = 4;
DELETE FROM public.books WHERE id = 5;
COMMIT;
SELECT pg_logical_emit_message(true, 'walvec', 'a message');
TRUNCATE public.books;
INSERT INTO public.books (id, name) VALUES (6, 'The last');
