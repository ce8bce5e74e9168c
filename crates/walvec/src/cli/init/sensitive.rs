//! Which columns hold secrets or personal data, as far as their names and values show it. The guesses are cautious: a column that
//! was left out can be added by hand, but a value that was sent to a model cannot be taken back.

use walvec_capture::sample::{ColumnKind, SampledColumn};
use walvec_model::TableName;

/// Why a column should not be copied unless the user asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sensitive {
    /// A secret, which belongs in no other system.
    Secret,
    /// Personal data, with its kind.
    Personal(&'static str),
}

/// Words in the names of columns that hold secrets.
const SECRETS: [&str; 18] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "secrets",
    "token",
    "hash",
    "salt",
    "apikey",
    "otp",
    "pin",
    "cvv",
    "cvc",
    "credential",
    "credentials",
    "session",
    "ssn",
];

/// Words in the names of columns that only count secrets.
const COUNTS: [&str; 8] = ["count", "counts", "total", "used", "limit", "max", "min", "length"];

/// Words that make a secret together with `key`.
const SECRET_KEYS: [&str; 5] = ["api", "private", "secret", "access", "encryption"];

/// Kinds of personal data, and words in the names of their columns.
const PERSONAL: [(&str, &[&str]); 8] = [
    ("an e-mail address", &["email", "emails", "mail", "mailbox", "emailaddress"]),
    ("a phone number", &["phone", "phones", "telephone", "tel", "mobile", "cell", "cellphone", "fax", "msisdn"]),
    (
        "the name of a person",
        &["firstname", "lastname", "surname", "fullname", "middlename", "givenname", "familyname", "username", "login"],
    ),
    ("an address", &["address", "addresses", "addr", "street", "zip", "zipcode", "postcode", "postalcode", "postal"]),
    ("a date of birth", &["birth", "birthday", "birthdate", "dateofbirth", "dob", "born"]),
    (
        "an account or document of a person",
        &["iban", "creditcard", "cardnumber", "passport", "taxid", "vatid", "nationalid", "socialsecurity"],
    ),
    ("an address on the network", &["ip", "ipaddress", "useragent"]),
    ("about a person", &["gender", "religion", "ethnicity", "salary", "diagnosis"]),
];

/// Words for persons: a name of such a person is personal data.
const PERSONS: [&str; 22] = [
    "customer",
    "user",
    "person",
    "people",
    "employee",
    "staff",
    "member",
    "patient",
    "contact",
    "client",
    "guest",
    "subscriber",
    "lead",
    "student",
    "teacher",
    "applicant",
    "candidate",
    "driver",
    "recipient",
    "sender",
    "reviewer",
    "buyer",
];

/// Words for tables whose authors are customers, not the authors of books that are searched.
const OPINIONS: [&str; 5] = ["review", "comment", "feedback", "ticket", "message"];

/// Returns what is sensitive about a column of `table`, if anything is.
pub(super) fn sensitive(table: &TableName, column: &SampledColumn) -> Option<Sensitive> {
    let words = words(&column.name);
    let is_flag = matches!(column.kind, ColumnKind::Bool);
    let is_number = matches!(column.kind, ColumnKind::Integer | ColumnKind::Float | ColumnKind::Numeric);
    let is_count = is_number && words.iter().any(|word| COUNTS.contains(&word.as_str()));
    let keys = words.windows(2).any(|pair| SECRET_KEYS.contains(&pair[0].as_str()) && pair[1] == "key");
    // `token_count` and `is_secret` are not secrets.
    if !is_flag && !is_count && (keys || words.iter().any(|word| SECRETS.contains(&word.as_str()))) {
        return Some(Sensitive::Secret);
    }
    if column.with_addresses >= 0.5 {
        return Some(Sensitive::Personal("an e-mail address, by its values"));
    }
    if is_flag {
        return None;
    }
    let named = PERSONAL.iter().find(|(_, names)| is_named(&words, names)).map(|(what, _)| *what);
    match named {
        // `email_sent_at` is not personal data; a date of birth is.
        Some(what) if column.kind == ColumnKind::Datetime && what != "a date of birth" => None,
        Some(what) => Some(Sensitive::Personal(what)),
        None => is_name_of_person(table, &words).then_some(Sensitive::Personal("the name of a person")),
    }
}

/// Returns whether one word, or two adjacent ones, are among `names`.
fn is_named(words: &[String], names: &[&str]) -> bool {
    let is_one = |word: &str| names.contains(&word);
    words.iter().any(|word| is_one(word)) || words.windows(2).any(|pair| is_one(&pair.concat()))
}

/// Returns whether a column is `customer_name`, `name` in a table of customers, `author` in a table of reviews, or the like.
fn is_name_of_person(table: &TableName, words: &[String]) -> bool {
    let is_in = |list: &[&str], word: &String| {
        list.contains(&word.as_str()) || word.strip_suffix('s').is_some_and(|singular| list.contains(&singular))
    };
    let is_about = |list: &[&str]| self::words(&table.name).iter().any(|word| is_in(list, word));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["name"] | ["display", "name"] => is_about(&PERSONS),
        ["author"] | ["author", "name"] => is_about(&OPINIONS),
        words => words.windows(2).any(|pair| is_in(&PERSONS, &pair[0].to_owned()) && pair[1] == "name"),
    }
}

/// Splits a name into words: `passwordHash`, `password_hash` and `Password Hash` are `password` and `hash`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for character in name.chars() {
        let begins = character.is_uppercase() && before.is_lowercase();
        if begins || !character.is_alphanumeric() {
            words.push(String::new());
        }
        if character.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(character.to_lowercase());
        }
        before = character;
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::super::propose::tests::column;
    use super::*;

    fn of(table: &str, name: &str, kind: ColumnKind) -> Option<Sensitive> {
        sensitive(&TableName::new("public", table), &column(name, kind))
    }

    #[test]
    fn secrets_are_known_by_their_names_in_any_spelling() {
        for name in ["password_hash", "passwordHash", "Password", "api_key", "apiKey", "reset_token", "SSN"] {
            assert_eq!(of("t", name, ColumnKind::Text), Some(Sensitive::Secret), "{name}");
        }
        for (name, kind) in
            [("ssn", ColumnKind::Integer), ("cvv", ColumnKind::Integer), ("pin_total", ColumnKind::Text)]
        {
            assert_eq!(of("t", name, kind), Some(Sensitive::Secret), "{name}");
        }
        for (name, kind) in [
            ("token_count", ColumnKind::Integer),
            ("is_secret", ColumnKind::Bool),
            ("key", ColumnKind::Text),
            ("hashtags", ColumnKind::Texts),
            ("compass", ColumnKind::Text),
        ] {
            assert_eq!(of("t", name, kind), None, "{name}");
        }
    }

    #[test]
    fn what_is_about_persons_is_known_by_its_name() {
        for name in [
            "email",
            "E_Mail",
            "contactEmail",
            "phone",
            "mobile",
            "first_name",
            "lastName",
            "street",
            "zip_code",
            "iban",
            "ip_address",
        ] {
            assert!(matches!(of("t", name, ColumnKind::Text), Some(Sensitive::Personal(_))), "{name}");
        }
        assert!(matches!(of("t", "date_of_birth", ColumnKind::Datetime), Some(Sensitive::Personal(_))));
        for (name, kind) in [
            ("email_sent_at", ColumnKind::Datetime),
            ("email_verified", ColumnKind::Bool),
            ("headphones", ColumnKind::Text),
            ("description", ColumnKind::Text),
            ("author", ColumnKind::Text),
        ] {
            assert_eq!(of("t", name, kind), None, "{name}");
        }
    }

    #[test]
    fn a_name_is_personal_where_it_is_that_of_a_person() {
        let named = Some(Sensitive::Personal("the name of a person"));
        assert_eq!(of("customers", "name", ColumnKind::Text), named);
        assert_eq!(of("orders", "customer_name", ColumnKind::Text), named);
        assert_eq!(of("products", "name", ColumnKind::Text), None);
        assert_eq!(of("authors", "name", ColumnKind::Text), None);
        assert_eq!(of("reviews", "author_name", ColumnKind::Text), named);
        assert_eq!(of("books", "author_name", ColumnKind::Text), None);
    }

    #[test]
    fn values_that_are_addresses_tell_too() {
        let reply_to = SampledColumn { with_addresses: 0.9, ..column("reply_to", ColumnKind::Text) };
        assert!(matches!(sensitive(&TableName::new("public", "t"), &reply_to), Some(Sensitive::Personal(_))));
    }
}
