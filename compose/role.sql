-- Creates the role as which walvec logs in, with only the rights that it needs. Loaded once, after books.sql. The role may
-- replicate -- and read the table that walvec searches; it owns nothing, and cannot write. The publication belongs to the owner
-- of the table. To show another table, grant SELECT on it and ALTER PUBLICATION walvec ADD TABLE it.
\getenv password WALVEC_DB_PASSWORD
CREATE ROLE walvec LOGIN REPLICATION PASSWORD :'password';
GRANT USAGE ON SCHEMA public TO walvec;
GRANT SELECT ON public.books TO walvec;
CREATE PUBLICATION walvec FOR TABLE public.books WITH (publish_via_partition_root = true);
