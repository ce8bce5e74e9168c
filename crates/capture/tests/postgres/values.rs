//! Values are the same by copy, by stream and by fetch, and exactly what PostgreSQL holds.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use walvec_model::{Change, Op, Row};

use crate::support::{Db, changes_to, copy};

/// Returns the row that a change brings.
pub(crate) fn new_row(change: &Change) -> &Row {
    match &change.op {
        Op::Insert { new } | Op::Update { new, .. } => new,
        other => panic!("no row in {other:?}"),
    }
}

/// User-defined types, which no server has by default.
const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"', 'ü,{}');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN small AS int CHECK (VALUE < 1000);
    CREATE DOMAIN smaller AS small;
    CREATE DOMAIN ints AS int[];";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_has_its_documented_form() {
    let cases: &[(&str, &str, Value)] = &[
        ("bool", "true", json!(true)),
        ("int2", "-32768", json!(-32768)),
        ("int8", "9007199254740993", json!(9_007_199_254_740_993_i64)),
        ("oid", "4294967295", json!(4_294_967_295_u32)),
        ("float4", "0.1", json!(0.1)),
        ("float8", "1e300", json!(1e300)),
        ("float8", "NaN", json!("NaN")),
        ("float8", "-Infinity", json!("-Infinity")),
        ("numeric", "123456789012345678901234567890.1200", json!("123456789012345678901234567890.1200")),
        ("numeric(6,2)", "1.5", json!("1.50")),
        ("text", "a\tb\\N\n\r\u{b}\u{1}ü", json!("a\tb\\N\n\r\u{b}\u{1}ü")),
        ("text", "\\N", json!("\\N")),
        ("text", "", json!("")),
        ("char(5)", "ab", json!("ab   ")),
        ("varchar(3)", "abc", json!("abc")),
        ("bytea", "\\x00ff5c", json!("\\x00ff5c")),
        ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("json", r#"{"b": 1, "a": [1.5, null], "b": 2}"#, json!({"b": 2, "a": [1.5, null]})),
        ("jsonb", r#"{"big": 1234567890123456789012}"#, json!({"big": "1234567890123456789012"})),
        ("jsonb", "\"text\"", json!("text")),
        ("date", "0044-03-15 BC", json!("0044-03-15 BC")),
        ("date", "infinity", json!("infinity")),
        ("timestamp", "2024-02-29 23:59:59.123456", json!("2024-02-29 23:59:59.123456")),
        ("timestamptz", "2024-01-01 00:00+09", json!("2023-12-31 15:00:00+00")),
        ("interval", "1 year 2 mons -3 days 04:05:06.7", json!("1 year 2 mons -3 days +04:05:06.7")),
        ("money", "-1234.5", json!("-$1,234.50")),
        ("bit(4)", "1010", json!("1010")),
        ("point", "(1,2)", json!("(1,2)")),
        ("int4range", "[1,5]", json!("[1,6)")),
        ("inet", "10.0.0.1/8", json!("10.0.0.1/8")),
        ("int[]", "{1,NULL,3}", json!([1, null, 3])),
        ("text[]", r#"{{a,"b,c"},{"NULL",""}}"#, json!([["a", "b,c"], ["NULL", ""]])),
        ("int[]", "[0:1]={1,2}", json!("[0:1]={1,2}")),
        ("bool[]", "{t,f}", json!([true, false])),
        ("jsonb[]", r#"{"{\"a\": 1}"}"#, json!([{"a": 1}])),
        ("float8[]", "{1.5,NaN}", json!([1.5, "NaN"])),
        ("timestamptz[]", "{2024-01-01 00:00+00}", json!(["2024-01-01 00:00:00+00"])),
        ("box[]", "{(1,1),(0,0);(2,2),(1,1)}", json!("{(1,1),(0,0);(2,2),(1,1)}")),
        ("int2vector", "1 2 3", json!("1 2 3")),
        ("mood", "it's \"ok\"", json!("it's \"ok\"")),
        ("mood[]", r#"{sad,"ü,{}"}"#, json!(["sad", "ü,{}"])),
        ("pair", "(1,\"a b\")", json!("(1,\"a b\")")),
        ("small", "7", json!(7)),
        ("smaller[]", "{7,8}", json!([7, 8])),
        ("ints", "{1,2}", json!([1, 2])),
        ("tsvector", "'a':1 'b'", json!("'a':1 'b'")),
        ("pg_lsn", "0/1D5C408", json!("0/1D5C408")),
        ("xid", "7", json!("7")),
    ];
    let columns: String = cases.iter().enumerate().map(|(index, case)| format!(", c{index} {}", case.0)).collect();
    let db = Db::new("documented", &format!("{TYPES} CREATE TABLE t (id int PRIMARY KEY {columns})")).await;
    let source = db.source(db.config(&["t"])).await;
    let assignments: Vec<_> = cases.iter().map(|(ty, text, _)| format!(", ($${text}$$::text)::{ty}")).collect();
    db.run(&format!("INSERT INTO t SELECT 1 {}", assignments.concat())).await;
    let rows = copy(&source).await;
    for (index, (ty, text, expected)) in cases.iter().enumerate() {
        let found = new_row(&rows[0]).0[index + 1].value();
        assert_eq!(found, Some(expected), "{ty} {text:?}");
    }
}

/// Returns the column types of the property test, each with texts that it accepts.
fn types() -> Vec<(&'static str, BoxedStrategy<String>)> {
    let any_text = "[^\0]{0,20}".prop_union("[\\\\\t\n\r\u{b}Ntb\"'{},;|]{0,12}").boxed();
    let number = prop_oneof![Just("0".to_owned()), "-?[1-9][0-9]{0,30}(\\.[0-9]{1,20})?", Just("NaN".to_owned())];
    let float = prop_oneof![
        any::<f64>().prop_map(|float| float.to_string().replace("inf", "Infinity")),
        any::<i32>().prop_map(|int| format!("{}", f64::from(int) / 100.0)),
        Just("-0".to_owned()),
    ];
    let date = (1..4000_u32, 1..13_u32, 1..29_u32, any::<bool>())
        .prop_map(|(year, month, day, bc)| format!("{year:04}-{month:02}-{day:02}{}", if bc { " BC" } else { "" }));
    let timestamp =
        (1..9999_u32, 1..13_u32, 1..29_u32, 0..24_u32, 0..1_000_000_u32).prop_map(|(year, month, day, hour, micro)| {
            format!("{year:04}-{month:02}-{day:02} {hour:02}:59:01.{micro:06}")
        });
    let json = json_text();
    let quoted = |text: String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let texts = proptest::collection::vec(proptest::option::of(any_text.clone()), 0..4).prop_map(move |items| {
        let items = items.into_iter().map(|item| item.map_or("NULL".to_owned(), quoted));
        format!("{{{}}}", items.collect::<Vec<_>>().join(","))
    });
    let ints = proptest::collection::vec(any::<i32>(), 1..4)
        .prop_map(|items| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    vec![
        ("bool", any::<bool>().prop_map(|value| value.to_string()).boxed()),
        ("int2", any::<i16>().prop_map(|value| value.to_string()).boxed()),
        ("int8", any::<i64>().prop_map(|value| value.to_string()).boxed()),
        ("oid", any::<u32>().prop_map(|value| value.to_string()).boxed()),
        ("float8", float.boxed()),
        ("float4", any::<f32>().prop_map(|float| float.to_string().replace("inf", "Infinity")).boxed()),
        ("numeric", number.boxed()),
        ("text", any_text.clone()),
        ("varchar(20)", "[^\0]{0,20}".boxed()),
        ("char(8)", "[a-z\\\\\t]{0,8}".boxed()),
        ("bytea", proptest::collection::vec(any::<u8>(), 0..20).prop_map(hex).boxed()),
        ("uuid", proptest::array::uniform16(any::<u8>()).prop_map(|bytes| hex(bytes.to_vec())[2..].to_owned()).boxed()),
        ("json", json.clone()),
        ("jsonb", json),
        ("date", date.boxed()),
        ("timestamp", timestamp.clone().boxed()),
        ("timestamptz", (timestamp, -11..12_i32).prop_map(|(at, zone)| format!("{at}{zone:+03}")).boxed()),
        ("interval", (any::<i16>(), any::<i16>(), any::<i32>()).prop_map(interval).boxed()),
        ("money", any::<i32>().prop_map(|cents| format!("{}", f64::from(cents) / 100.0)).boxed()),
        ("bit(8)", "[01]{8}".boxed()),
        ("varbit", "[01]{0,20}".boxed()),
        ("point", (any::<i16>(), any::<i16>()).prop_map(|(x, y)| format!("({x},{y})")).boxed()),
        ("int4range", (-99..0_i32, 1..99_i32).prop_map(|(low, high)| format!("[{low},{high}]")).boxed()),
        ("text[]", texts.boxed()),
        ("int[]", ints.clone().prop_map(|items| format!("{{{{{items}}},{{{items}}}}}")).boxed()),
        ("ints", ints.prop_map(|items| format!("[5:{}]={{{items}}}", 4 + items.split(',').count())).boxed()),
        ("mood", prop_oneof![Just("sad".to_owned()), Just("it's \"ok\"".to_owned()), Just("ü,{}".to_owned())].boxed()),
        ("smaller", (-999..999_i32).prop_map(|value| value.to_string()).boxed()),
    ]
}

fn hex(bytes: Vec<u8>) -> String {
    format!("\\x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn interval((months, days, seconds): (i16, i16, i32)) -> String {
    format!("{months} months {days} days {seconds} seconds")
}

fn json_text() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|value| value.to_string()),
        "-?[1-9][0-9]{0,25}(\\.[0-9]{1,25})?(e-?[1-9]{1,2})?",
        "[^\0]{0,12}".prop_map(|text| Value::String(text.replace('\0', "")).to_string()),
    ];
    let tree = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            proptest::collection::vec(("[a-z]{1,4}", inner), 0..4).prop_map(|items| {
                let items = items.into_iter().map(|(key, value)| format!("\"{key}\": {value}"));
                format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
            }),
        ]
    });
    tree.boxed()
}

#[test]
fn random_values_are_the_same_by_copy_stream_and_fetch() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let types = types();
    let columns: String = types.iter().enumerate().map(|(index, (ty, _))| format!(", c{index} {ty}")).collect();
    let setup = format!("{TYPES} CREATE TABLE t (id serial PRIMARY KEY {columns})");
    let (db, source, stream) = runtime.block_on(async {
        let db = Db::new("random", &setup).await;
        let (source, _, stream) = db.follow(db.config(&["t"])).await;
        (db, source, stream)
    });
    let casts: String =
        types.iter().enumerate().map(|(index, (ty, _))| format!(", (${}::text)::{ty}", index + 1)).collect();
    let names: String = (0..types.len()).map(|index| format!(", c{index}")).collect();
    let insert = format!("INSERT INTO t ({}) SELECT {}", &names[2..], &casts[2..]);

    let row = types.into_iter().map(|(_, texts)| proptest::option::weighted(0.9, texts)).collect::<Vec<_>>();
    let mut streamed = Vec::new();
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let streamed_rows = std::cell::RefCell::new(&mut streamed);
    let stream = tokio::sync::Mutex::new(stream);
    runner
        .run(&row, |texts| {
            let (streamed, fetched) = runtime.block_on(async {
                let parameters: Vec<_> =
                    texts.iter().map(|text| text as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
                db.client.execute(&insert, &parameters).await.expect("the values are valid");
                let end = db.run_to("").await;
                let change = changes_to(&mut *stream.lock().await, end).await.remove(0);
                let fetched = source.fetch_rows(&change.table, &[change.key().unwrap()]).await.unwrap();
                (change, fetched)
            });
            prop_assert_eq!(new_row(&streamed), &fetched[0].1);
            streamed_rows.borrow_mut().push(streamed);
            Ok(())
        })
        .unwrap();

    runtime.block_on(async {
        let mut config = db.config(&["t"]);
        config.slot = "random_again".to_owned();
        let again = db.source(config).await;
        let copied = copy(&again).await;
        assert_eq!(copied.len(), streamed.len());
        for change in &streamed {
            let copied = copied.iter().find(|copied| copied.key() == change.key()).expect("the row");
            assert_eq!(new_row(copied), new_row(change));
        }
    });
}
