//! Parsing of names and addresses in their usual notations.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use walvec_model::TableName;

/// Parses `address:port`; `localhost` is 127.0.0.1.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        format!("\"{text}\" is not an address with a port; write for example 127.0.0.1:8082 or [::1]:8082")
    })
}

/// Returns whether a host, a name or an address, is this machine. An IPv6 address may have its brackets.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse();
    host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Checks that `text` is a list of brokers: `host:port`, several separated by commas.
pub(super) fn bootstrap(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("missing; write where the broker is, for example localhost:9092".to_owned());
    }
    match text.split(',').map(str::trim).find(|address| !is_broker(address)) {
        Some(address) => Err(format!(
            "\"{address}\" is not the address of a broker; write host:9092 or [::1]:9092, several separated by commas, without \
             a scheme: `tls` and `sasl` say how to connect"
        )),
        None => Ok(()),
    }
}

/// Returns the hosts of a text that [`bootstrap`] accepts.
pub(super) fn bootstrap_hosts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter_map(|address| address.trim().rsplit_once(':')).map(|(host, _)| host)
}

fn is_broker(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/:@[]".contains(c)),
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Returns whether Kafka allows the character in a topic's name: letters, digits and these.
/// <https://github.com/apache/kafka/blob/4.0.0/clients/src/main/java/org/apache/kafka/common/internals/Topic.java>
const fn is_of_topic(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Kafka's limit for the name of a topic.
const LONGEST_TOPIC: usize = 249;

/// Replaces every character that a topic's name cannot hold by `_`, as Debezium does.
pub(super) fn topic(name: &str) -> String {
    name.chars().map(|c| if is_of_topic(c) { c } else { '_' }).collect()
}

/// Checks that a topic may be called `name`.
pub(super) fn is_topic(name: &str) -> Result<(), String> {
    let is_name = !matches!(name, "" | "." | "..") && name.chars().all(is_of_topic);
    match name.len() {
        _ if !is_name => Err(format!("\"{name}\" is no name for a topic; use letters, digits, . _ and -")),
        length if length > LONGEST_TOPIC => Err(format!(
            "the topic {name} has {length} characters, Kafka allows {LONGEST_TOPIC}; shorten broker.kafka.topic_prefix"
        )),
        _ => Ok(()),
    }
}

/// Parses `schema.table`, quoted as in SQL.
///
/// SQL folds unquoted names to lower case. That would silently read another table than the one that was written, so an
/// upper-case letter outside of quotes is refused.
pub(crate) fn table_name(text: &str) -> Result<TableName, String> {
    let (schema, rest) = identifier(text)?;
    let Some(rest) = rest.strip_prefix('.') else {
        return Err(if rest.is_empty() {
            format!("\"{text}\" has no schema; write public.{text}")
        } else {
            not_a_table(text)
        });
    };
    let (name, rest) = identifier(rest)?;
    if rest.is_empty() { Ok(TableName::new(schema, name)) } else { Err(not_a_table(text)) }
}

/// Parses one identifier, and returns it with what follows.
fn identifier(text: &str) -> Result<(String, &str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted_identifier(quoted).ok_or_else(|| not_a_table(text));
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_numeric() || c == '$') {
        return Err(not_a_table(text));
    }
    if name.chars().any(char::is_uppercase) {
        let folded = name.to_lowercase();
        return Err(format!(
            "SQL reads {name} without quotes as {folded}; write {folded}, or '\"{name}\"' with both quotes"
        ));
    }
    Ok((name.to_owned(), rest))
}

/// Parses up to the closing quote; a doubled quote stands for one quote.
fn quoted_identifier(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, behind) = rest.split_once('"')?;
        name.push_str(part);
        match behind.strip_prefix('"') {
            Some(behind) => {
                name.push('"');
                rest = behind;
            }
            None => return (!name.is_empty()).then_some((name, behind)),
        }
    }
}

fn not_a_table(text: &str) -> String {
    format!("{text} is not a table name; write schema.table, quoted as in SQL: public.books or public.\"My Table\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_read_as_sql_reads_them() {
        for (text, schema, name) in [
            ("public.books", "public", "books"),
            ("public.\"My Table\"", "public", "My Table"),
            ("\"Sales.EU\".\"say \"\"hi\"\"\"", "Sales.EU", "say \"hi\""),
            ("öffentlich._b$1", "öffentlich", "_b$1"),
        ] {
            assert_eq!(table_name(text), Ok(TableName::new(schema, name)), "{text}");
        }
    }

    #[test]
    fn what_is_no_table_name_is_refused() {
        for text in ["", ".", "a.", ".a", "a.b.c", "a b", "a.b c", "1a.b", "a.\"b", "a.\"\"", "a.b;drop", "a.\"b\"c"] {
            assert!(table_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_table_without_schema_or_with_letters_that_sql_would_fold_gets_the_right_spelling() {
        assert!(table_name("books").unwrap_err().ends_with("write public.books"));
        assert!(table_name("public.Books").unwrap_err().contains("write books, or '\"Books\"'"));
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        for text in ["localhost:9092", "a:1,b_c.example:65535", "a:1, [::1]:9092", "10.0.0.1:9092"] {
            assert_eq!(bootstrap(text), Ok(()), "{text}");
        }
        for text in ["", " ", "a", "a:", ":9092", "a:0", "a:65536", "a:1,", "a:1;b:1", "::1:9092", "ssl://a:1", "u@a:1"]
        {
            assert!(bootstrap(text).is_err(), "{text}");
        }
        assert_eq!(bootstrap_hosts("a:1, [::1]:2").collect::<Vec<_>>(), ["a", "[::1]"]);
        assert!(is_loopback("[::1]") && is_loopback("127.0.0.2") && !is_loopback("10.0.0.1"));
    }

    #[test]
    fn a_topic_is_named_as_kafka_allows_it() {
        assert_eq!(topic("a.public.Bücher und \"mehr\""), "a.public.B_cher_und__mehr_");
        assert_eq!(is_topic("a-b_c.D1"), Ok(()));
        assert_eq!(is_topic(&"a".repeat(249)), Ok(()));
        for name in ["", ".", "..", "a b", "a/b", "ä", &"a".repeat(250)] {
            assert!(is_topic(name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_address_needs_a_port_and_localhost_is_loopback() {
        assert_eq!(listen_address("localhost:80").map(|a| a.to_string()), Ok("127.0.0.1:80".to_owned()));
        assert_eq!(listen_address("[::]:80").map(|a| a.to_string()), Ok("[::]:80".to_owned()));
        for text in ["8082", "127.0.0.1", "example.com:80", "localhost:99999"] {
            assert!(listen_address(text).is_err(), "{text}");
        }
    }
}
