//! Checks that these tests can fail: the comparison finds every sort of difference.

use anyhow::Result;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(the_comparison_finds_every_sort_of_difference),
        test!(the_comparison_knows_every_type_and_sort_of_key),
        test!(a_program_that_ends_shows_its_last_words),
    ]
}

async fn the_comparison_finds_every_sort_of_difference(context: TestContext) -> Result<()> {
    context.execute("CREATE TABLE t (id int PRIMARY KEY, name text, n int)").await?;
    context.execute("INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3)").await?;
    let settings = Settings::new([Collection::new("t", "public.t", "{{ name }}")]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let expected = Expected::of("t", |row| row["name"].as_str().unwrap_or_default().to_owned());
    assert_eq!(image::compare(&context, &expected).await?, 3);

    // walvec no longer follows the table, so every change is a difference.
    let changes = [
        ("INSERT INTO t VALUES (4, 'four', 4)", "1 missing"),
        ("DELETE FROM t WHERE id = 1", "1 extra"),
        ("UPDATE t SET n = 20 WHERE id = 2", "2: payload"),
        ("UPDATE t SET name = 'drei' WHERE id = 3", "3: embedded another text than \"drei\""),
        ("UPDATE t SET name = 'drei' WHERE id = 3", "1 with a wrong vector"),
    ];
    for (change, difference) in changes {
        context.execute(&format!("BEGIN; {change}")).await?;
        let found = image::compare(&context, &expected).await.expect_err(change).to_string();
        assert!(found.contains(difference), "{change} gave {found}");
        context.execute("ROLLBACK").await?;
    }
    assert_eq!(image::compare(&context, &expected).await?, 3);
    Ok(())
}

async fn the_comparison_knows_every_type_and_sort_of_key(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TYPE mood AS ENUM ('calm', 'wild');
             CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
             CREATE TABLE types (
                 language char(4), number int, PRIMARY KEY (number, language),
                 b bool, i2 smallint, i8 bigint, f4 real, f8 double precision, amount numeric, e even, m mood,
                 ts timestamptz, d date, bytes bytea, j json, jb jsonb, ints int[], texts text[], moods mood[],
                 amounts numeric[], span int4range, u uuid);
             INSERT INTO types VALUES
                 ('de', 1, true, -1, 9007199254740993, 0.1, 1e300, 10.500, 42, 'wild', '2026-02-03 04:05:06.789+01',
                  '0044-03-15 BC', '\\xdeadbeef', '{\"b\": [1, null]}', '{\"a\": 1.5}', '{1,NULL,3}',
                  '{\"a b\",NULL,\"\\\"q\\\"\"}', '{calm,wild}', '{1.10,NaN}', '[1,5)',
                  'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'),
                 ('en', -2, NULL, NULL, NULL, 'NaN', '-Infinity', 'NaN', NULL, NULL, 'infinity', NULL, '', '3', 'null',
                  '{}', '{}', '{{calm},{wild}}', NULL, 'empty', NULL);
             CREATE TABLE uuids (id uuid PRIMARY KEY, name text);
             INSERT INTO uuids SELECT gen_random_uuid(), 'name ' || n FROM generate_series(1, 5) n;
             CREATE TABLE texts (id text PRIMARY KEY, name text);
             INSERT INTO texts VALUES ('42', 'a'), ('', 'b'), ('ü', 'c');
             CREATE TABLE negative (id int PRIMARY KEY, name text);
             INSERT INTO negative VALUES (-1, 'a'), (0, 'b'), (1, 'c')",
        )
        .await?;
    let name: fn(&walvec_model::Payload) -> String = |row| row["name"].as_str().unwrap_or_default().to_owned();
    let number: fn(&walvec_model::Payload) -> String = |row| row["number"].to_string();
    let tables =
        [("types", "{{ number }}", number, 2), ("uuids", "{{ name }}", name, 5), ("texts", "{{ name }}", name, 3)];
    let tables = tables.into_iter().chain([("negative", "{{ name }}", name, 3)]).collect::<Vec<_>>();
    let collections = tables.iter().map(|(table, text, ..)| Collection::new(table, &format!("public.{table}"), text));
    let mut walvec = context.start(&Settings::new(collections)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    for (table, _, text, rows) in tables {
        assert_eq!(image::compare(&context, &Expected::of(table, text)).await?, rows, "{table}");
    }
    Ok(())
}

async fn a_program_that_ends_shows_its_last_words(context: TestContext) -> Result<()> {
    let settings = Settings::new([Collection::new("t", "public.missing", "{{ name }}")]);
    let error = match context.start(&settings).await {
        // The API may have answered before walvec checked the table.
        Ok(mut walvec) => walvec.caught_up(&context).await.map(drop).unwrap_err(),
        Err(error) => error,
    };
    assert!(format!("{error:?}").contains("missing"), "{error:?}");
    Ok(())
}
