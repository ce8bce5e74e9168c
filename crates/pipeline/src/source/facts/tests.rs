use super::*;
use crate::source::fixtures::{plain, table};

fn items(columns: &[(&str, &str, u32)], key: Vec<usize>) -> Arc<Table> {
    let columns = columns.iter().map(|(name, type_name, oid)| Column::new(*name, *type_name, *oid)).collect();
    Arc::new(Table { name: table("items"), columns, key })
}

const ID: (&str, &str, u32) = ("id", "bigint", 20);
const TITLE: (&str, &str, u32) = ("title", "text", 25);
const PRICE: (&str, &str, u32) = ("price", "numeric", 1700);

fn config(digest: &str) -> ConfigDigest {
    ConfigDigest { digest: digest.to_owned(), ..ConfigDigest::default() }
}

fn digest(config: &ConfigDigest, columns: &[(&str, &str, u32)], key: Vec<usize>) -> String {
    with_shapes(config, &[items(columns, key)])
}

#[test]
fn whatever_decides_rows_and_payloads_changes_the_digest() {
    let usual = digest(&config("a"), &[ID, TITLE], vec![0]);
    assert_eq!(digest(&config("a"), &[ID, TITLE], vec![0]), usual);
    let others = [
        ("the configuration", digest(&config("b"), &[ID, TITLE], vec![0])),
        ("the key", digest(&config("a"), &[ID, TITLE], vec![1])),
        ("the order of the key", digest(&config("a"), &[ID, TITLE], vec![1, 0])),
        ("a column more", digest(&config("a"), &[ID, TITLE, PRICE], vec![0])),
        ("a column's name", digest(&config("a"), &[ID, ("name", "text", 25)], vec![0])),
        ("a column's type", digest(&config("a"), &[("id", "integer", 23), TITLE], vec![0])),
        ("the order of the columns", digest(&config("a"), &[TITLE, ID], vec![0])),
    ];
    for (what, other) in others {
        assert_ne!(other, usual, "{what}");
    }
}

#[test]
fn an_index_of_numbers_concerns_only_the_numeric_columns_that_it_names() {
    let of = |columns: &[(&str, &str, u32)], numbers: &[(&str, &str)]| {
        let numbers = numbers.iter().map(|(of, column)| (table(of), (*column).to_owned())).collect();
        digest(&ConfigDigest { numbers, ..config("a") }, columns, vec![0])
    };
    let without = of(&[ID, PRICE], &[]);
    assert_ne!(of(&[ID, PRICE], &[("items", "price")]), without, "its values are stored as numbers");
    assert_eq!(of(&[ID, PRICE], &[("items", "weight")]), without, "another column");
    assert_eq!(of(&[ID, PRICE], &[("books", "price")]), without, "another table");
    assert_eq!(of(&[ID, TITLE], &[("items", "title")]), of(&[ID, TITLE], &[]), "not numeric");
}

#[test]
fn a_table_has_the_digest_of_its_own_configuration() {
    let tables = BTreeMap::from([(table("items"), "one".to_owned()), (table("books"), "two".to_owned())]);
    let whole = ConfigDigest { tables, ..config("all") };
    assert_eq!(whole.of_table(&table("items")).digest, "one");
    assert_eq!(whole.of_table(&table("films")).digest, "", "nothing is configured for it");
}

#[test]
fn a_name_of_another_table_is_found_if_the_former_one_was_read() {
    let baseline = Baseline {
        shapes: vec![(table("items"), plain(1)), (table("books"), plain(2)), (table("films"), plain(3))],
        ..Baseline::default()
    };
    let now = || {
        vec![
            (table("items"), Some(plain(9))),
            (table("books"), Some(plain(2))),
            (table("films"), None),
            (table("songs"), Some(plain(7))),
        ]
    };
    assert_eq!(replaced(Some(&baseline), now()), BTreeSet::from([table("items")]));
    assert!(replaced(None, now()).is_empty(), "nothing was read");
}
