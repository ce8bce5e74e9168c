//! A column of each type: its values as they are stored and printed, and what filters and sorts by it find or refuse.

use serde_json::{Value, json};

/// A column of the table under test. The rows 1 and 2 have a value, the row 3 has NULL.
pub(super) struct Case {
    pub(super) column: &'static str,
    pub(super) sql: &'static str,
    /// The two values, as SQL writes them.
    pub(super) values: [&'static str; 2],
    /// The two values as they are stored.
    pub(super) stored: [Value; 2],
    /// The first value as a template prints it.
    pub(super) printed: &'static str,
    pub(super) index: Option<&'static str>,
    /// Filters, and which rows they find.
    pub(super) finds: &'static [(&'static str, &'static [u64])],
    /// Filters that cannot match, and a part of the answer to each.
    pub(super) refuses: &'static [(&'static str, &'static str)],
    /// Values of `order_by`, and the order of the rows for each. The row 3, which has no value, is the last.
    pub(super) sorts: &'static [(&'static str, &'static [u64])],
    /// A part of the answer to a request that sorts by the column; empty if the column can be sorted.
    pub(super) unsorted: &'static str,
}

const NO_ORDER: &str = "has no order that a range could go by";

pub(super) fn cases() -> Vec<Case> {
    [flags_and_integers(), decimals(), words(), labels(), dates(), times(), nested(), others()]
        .into_iter()
        .flatten()
        .collect()
}

/// Returns a column without an index, which no filter of the test uses.
fn case(
    column: &'static str,
    sql: &'static str,
    values: [&'static str; 2],
    stored: [Value; 2],
    printed: &'static str,
) -> Case {
    Case {
        column,
        sql,
        values,
        stored,
        printed,
        index: None,
        finds: &[],
        refuses: &[],
        sorts: &[],
        unsorted: "which cannot be sorted; these can be: ",
    }
}

fn flags_and_integers() -> Vec<Case> {
    vec![
        Case {
            finds: &[("flag=yes", &[1]), ("flag=F", &[2]), ("flag=[true,false]", &[1, 2]), ("flag!=1", &[2, 3])],
            refuses: &[("flag=maybe", "no true or false"), ("flag>0", NO_ORDER)],
            index: Some("bool"),
            ..case("flag", "boolean", ["true", "false"], [json!(true), json!(false)], "true")
        },
        Case {
            finds: &[("small=7", &[1]), ("small=7.0", &[1]), ("small>7", &[2]), ("small!=7", &[2, 3])],
            refuses: &[("small=7.5", "no whole number"), ("small=x", "no whole number"), ("small<x", "no number")],
            unsorted: "the field has no index: write index: { small: integer }",
            ..case("small", "smallint", ["7", "8"], [json!(7), json!(8)], "7")
        },
        Case {
            finds: &[("big=9223372036854775807", &[1]), ("big=[9223372036854775807,-5]", &[1, 2]), ("big<0", &[2])],
            index: Some("integer"),
            sorts: &[("big", &[2, 1, 3]), ("big:desc", &[1, 2, 3])],
            unsorted: "",
            ..case("big", "bigint", ["9223372036854775807", "-5"], [json!(i64::MAX), json!(-5)], "9223372036854775807")
        },
    ]
}

fn decimals() -> Vec<Case> {
    vec![
        Case {
            finds: &[("ratio=0.1", &[1]), ("ratio=NaN", &[2]), ("ratio<1", &[1])],
            refuses: &[("ratio=heavy", "no number")],
            index: Some("float"),
            sorts: &[("ratio", &[1, 2, 3]), ("ratio:desc", &[1, 2, 3])],
            unsorted: "",
            ..case("ratio", "double precision", ["0.1", "'NaN'"], [json!(0.1), json!("NaN")], "0.1")
        },
        Case {
            finds: &[("price=12.5", &[1]), ("price<50", &[1]), ("price>=99.99", &[2]), ("price!=12.50", &[2, 3])],
            refuses: &[("price=cheap", "no number"), ("price>x", "no number")],
            index: Some("float"),
            sorts: &[("price", &[1, 2, 3]), ("price:desc", &[2, 1, 3])],
            unsorted: "",
            ..case("price", "numeric(10,2)", ["12.50", "99.99"], [json!(12.5), json!(99.99)], "12.50")
        },
        Case {
            finds: &[("exact=12.5", &[1]), ("exact=[12.500,1]", &[1]), ("exact=-0.25", &[2])],
            refuses: &[
                ("exact<50", "index: { exact: float }"),
                ("exact=1.255", "more than 2 digits"),
                ("exact=x", "no number"),
            ],
            unsorted: "index: { exact: float }",
            ..case("exact", "numeric(10,2)", ["12.50", "-0.25"], [json!("12.50"), json!("-0.25")], "12.50")
        },
        Case {
            finds: &[("whole=9007199254740993", &[1]), ("whole=9007199254740992", &[]), ("whole<8.5", &[2])],
            refuses: &[("whole=7.5", "no whole number")],
            index: Some("integer"),
            sorts: &[("whole", &[2, 1, 3]), ("whole:desc", &[1, 2, 3])],
            unsorted: "",
            ..case(
                "whole",
                "numeric(20)",
                ["9007199254740993", "8"],
                [json!(9_007_199_254_740_993_i64), json!(8)],
                "9007199254740993",
            )
        },
        Case {
            finds: &[("level=-7", &[1])],
            index: Some("float"),
            sorts: &[("level", &[1, 2, 3]), ("level:desc", &[2, 1, 3])],
            unsorted: "",
            ..case("level", "smallint", ["-7", "0"], [json!(-7), json!(0)], "-7")
        },
        Case {
            finds: &[("cost=12.50", &[1]), ("cost<13", &[1])],
            index: Some("float"),
            sorts: &[("cost", &[1, 2, 3]), ("cost:desc", &[2, 1, 3])],
            unsorted: "",
            ..case("cost", "cost", ["12.50", "13"], [json!(12.5), json!(13.0)], "12.50")
        },
    ]
}

fn words() -> Vec<Case> {
    vec![
        Case {
            finds: &[
                ("isbn10=9780141439518", &[1]),
                ("isbn10=true", &[2]),
                ("isbn10=[\"true\",9780141439518]", &[1, 2]),
                ("isbn10!=true", &[1, 3]),
            ],
            refuses: &[("isbn10>9", NO_ORDER), ("isbn10.x=1", "holds no JSON")],
            index: Some("keyword"),
            ..case(
                "isbn10",
                "text",
                ["'9780141439518'", "'true'"],
                [json!("9780141439518"), json!("true")],
                "9780141439518",
            )
        },
        Case {
            finds: &[("mail=Me@x.org", &[1])],
            ..case("mail", "citext", ["'Me@x.org'", "'b'"], [json!("Me@x.org"), json!("b")], "Me@x.org")
        },
    ]
}

fn labels() -> Vec<Case> {
    vec![
        Case {
            finds: &[("mood=ok", &[1]), ("mood=[\"ok\",\"so so\"]", &[1, 2])],
            refuses: &[
                ("mood<ok", NO_ORDER),
                ("mood=great", "is no label of the enum; there are: ok, so so"),
                ("mood!=great", "is no label of the enum; there are: ok, so so"),
                ("mood=[\"ok\",\"great\"]", "is no label of the enum; there are: ok, so so"),
                ("mood=OK", "is no label of the enum; did you mean"),
            ],
            index: Some("keyword"),
            ..case("mood", "mood", ["'ok'", "'so so'"], [json!("ok"), json!("so so")], "ok")
        },
        Case {
            finds: &[("moods=so so", &[1]), ("moods=ok", &[1, 2]), ("moods!=so so", &[2, 3])],
            refuses: &[("moods=great", "is no label of the enum; there are: ok, so so")],
            index: Some("keyword"),
            unsorted: "the field holds lists",
            ..case(
                "moods",
                "mood[]",
                ["'{ok,so so}'", "'{ok}'"],
                [json!(["ok", "so so"]), json!(["ok"])],
                "[\"ok\",\"so so\"]",
            )
        },
        Case {
            finds: &[("state=ok", &[1])],
            refuses: &[("state=great", "is no label of the enum; there are: ok, so so")],
            ..case("state", "state", ["'ok'", "'so so'"], [json!("ok"), json!("so so")], "ok")
        },
        Case {
            finds: &[
                ("owner=A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", &[1]),
                ("owner={a0eebc999c0b4ef8bb6d6bb9bd380a12}", &[2]),
            ],
            refuses: &[("owner=me", "no UUID"), ("owner>a", NO_ORDER)],
            index: Some("uuid"),
            ..case(
                "owner",
                "uuid",
                ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'a0eebc999c0b4ef8bb6d6bb9bd380a12'"],
                [json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12")],
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            )
        },
    ]
}

fn dates() -> Vec<Case> {
    vec![
        Case {
            finds: &[
                ("day=2024-01-31", &[1]),
                ("day<2024-02-01", &[1]),
                ("day=infinity", &[2]),
                ("day!=2024-01-31", &[2, 3]),
            ],
            refuses: &[("day=yesterday", "no date or time"), ("day>5", "no date or time")],
            index: Some("datetime"),
            sorts: &[("day", &[1, 2, 3]), ("day:desc", &[1, 2, 3])],
            unsorted: "",
            ..case(
                "day",
                "date",
                ["'2024-01-31'", "'infinity'"],
                [json!("2024-01-31"), json!("infinity")],
                "2024-01-31",
            )
        },
        Case {
            finds: &[("born=1815-12-10", &[2])],
            index: Some("datetime"),
            sorts: &[("born", &[2, 1, 3]), ("born:asc", &[2, 1, 3]), ("born:desc", &[1, 2, 3])],
            unsorted: "",
            ..case(
                "born",
                "text",
                ["'1912-06-23'", "'1815-12-10'"],
                [json!("1912-06-23"), json!("1815-12-10")],
                "1912-06-23",
            )
        },
    ]
}

fn times() -> Vec<Case> {
    vec![
        Case {
            finds: &[
                ("at=2024-01-31T18:00:00Z", &[1]),
                ("at=2024-01-31T19:00:00+01:00", &[1]),
                ("at>=2024-02-01", &[2]),
            ],
            refuses: &[("at<2024-02-30", "no date or time")],
            unsorted: "the field has no index: write index: { at: datetime }",
            ..case(
                "at",
                "timestamptz",
                ["'2024-01-31 19:00:00+01'", "'2024-02-01'"],
                [json!("2024-01-31 18:00:00+00"), json!("2024-02-01 00:00:00+00")],
                "2024-01-31 18:00:00+00",
            )
        },
        Case {
            finds: &[("seen>2024-01-31T18:00:00Z", &[2])],
            index: Some("datetime"),
            sorts: &[("seen", &[1, 2, 3]), ("seen:desc", &[2, 1, 3])],
            unsorted: "",
            ..case(
                "seen",
                "timestamptz",
                ["'2024-01-31 19:00:00+01'", "'2024-01-31 19:00:00.000001+01'"],
                [json!("2024-01-31 18:00:00+00"), json!("2024-01-31 18:00:00.000001+00")],
                "2024-01-31 18:00:00+00",
            )
        },
    ]
}

fn nested() -> Vec<Case> {
    vec![
        Case {
            finds: &[
                ("meta.color=red", &[1]),
                ("meta.size=42", &[1]),
                ("meta.size>41", &[1, 2]),
                ("meta.tags=b", &[1]),
                ("meta.items[].name=x", &[2]),
                ("meta.color is null", &[2, 3]),
                ("meta is null", &[3]),
            ],
            refuses: &[("mata.color=red", "did you mean")],
            sorts: &[("meta.size", &[1, 2, 3]), ("meta.size:desc", &[2, 1, 3])],
            unsorted: "a member can be, if it is indexed as a number or a date",
            ..case(
                "meta",
                "jsonb",
                [
                    "'{\"color\": \"red\", \"size\": 42, \"tags\": [\"a\", \"b\"]}'",
                    "'{\"size\": 43.5, \"items\": [{\"name\": \"x\"}]}'",
                ],
                [
                    json!({"color": "red", "size": 42, "tags": ["a", "b"]}),
                    json!({"size": 43.5, "items": [{"name": "x"}]}),
                ],
                "{\"size\":42,\"tags\":[\"a\",\"b\"],\"color\":\"red\"}",
            )
        },
        Case {
            finds: &[
                ("tags=sea", &[1]),
                ("tags=[\"sand\",\"snow\"]", &[2]),
                ("tags!=sea", &[2, 3]),
                ("tags is null", &[3]),
            ],
            index: Some("keyword"),
            unsorted: "the field holds lists",
            ..case(
                "tags",
                "text[]",
                ["'{sea,whale}'", "'{sand}'"],
                [json!(["sea", "whale"]), json!(["sand"])],
                "[\"sea\",\"whale\"]",
            )
        },
        Case {
            finds: &[("prices=1.5", &[1]), ("prices>50", &[2])],
            index: Some("float"),
            unsorted: "the field holds lists",
            ..case(
                "prices",
                "numeric[]",
                ["'{1.50,2}'", "'{99}'"],
                [json!([1.5, 2.0]), json!([99.0])],
                "[\"1.50\",\"2\"]",
            )
        },
    ]
}

fn others() -> Vec<Case> {
    vec![
        Case {
            finds: &[("fee=$1.50", &[1])],
            refuses: &[("fee<2", NO_ORDER)],
            ..case("fee", "money", ["1.5", "2"], [json!("$1.50"), json!("$2.00")], "$1.50")
        },
        Case {
            finds: &[("span=1 day", &[1])],
            refuses: &[("span>1 day", NO_ORDER)],
            ..case(
                "span",
                "interval",
                ["'24 h'::interval + '1 day' - '24 h'", "'2 h'"],
                [json!("1 day"), json!("02:00:00")],
                "1 day",
            )
        },
        Case {
            finds: &[("during=[1,5)", &[1])],
            ..case("during", "int4range", ["'[1,4]'", "'empty'"], [json!("[1,5)"), json!("empty")], "[1,5)")
        },
        case("point", "pair", ["'(1,a)'", "'(2,)'"], [json!("(1,a)"), json!("(2,)")], "(1,a)"),
        Case {
            finds: &[("bytes=\\x00ff", &[1])],
            ..case("bytes", "bytea", ["'\\x00ff'", "''"], [json!("\\x00ff"), json!("\\x")], "\\x00ff")
        },
        Case {
            finds: &[("place=top.part", &[1])],
            index: Some("keyword"),
            ..case("place", "ltree", ["'top.part'", "'top'"], [json!("top.part"), json!("top")], "top.part")
        },
        case("pairs", "hstore", ["'a=>1'", "''"], [json!("\"a\"=>\"1\""), json!("")], "\"a\"=>\"1\""),
        Case {
            finds: &[("book=978-0-393-04002-9", &[1])],
            ..case(
                "book",
                "isbn13",
                ["'978-0-393-04002-9'", "'978-0-14-143951-8'"],
                [json!("978-0-393-04002-9"), json!("978-0-14-143951-8")],
                "978-0-393-04002-9",
            )
        },
    ]
}
