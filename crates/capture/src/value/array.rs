//! Array literals, as `array_out` writes them and `array_in` reads them.
//!
//! <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>

use walvec_model::Value;

use super::ValueKind;

/// The maximum number of dimensions in PostgreSQL (MAXDIM).
const MAX_DEPTH: usize = 6;

/// Decodes a literal; `None` if it has explicit bounds or is not a literal, in which case its text is kept.
///
/// Elements are separated by commas: the one built-in type with another delimiter, `box`, is not decoded.
pub(super) fn decode(text: &str, element: &ValueKind) -> Option<Value> {
    let mut parser = Parser { rest: text, element };
    let value = parser.array(1)?;
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    element: &'a ValueKind,
}

impl Parser<'_> {
    fn eat(&mut self, character: char) -> bool {
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH || !self.eat('{') {
            return None;
        }
        let mut items = Vec::new();
        if self.eat('}') {
            return Some(Value::Array(items));
        }
        loop {
            items.push(self.item(depth)?);
            if self.eat('}') {
                return Some(Value::Array(items));
            }
            if !self.eat(',') {
                return None;
            }
        }
    }

    fn item(&mut self, depth: usize) -> Option<Value> {
        match self.rest.as_bytes().first()? {
            b'{' => self.array(depth + 1),
            b'"' => self.quoted().map(|text| super::decode(&text, self.element)),
            _ => self.bare(),
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut characters = self.rest[1..].char_indices();
        while let Some((index, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[index + 2..];
                    return Some(text);
                }
                '\\' => text.push(characters.next()?.1),
                other => text.push(other),
            }
        }
        None
    }

    fn bare(&mut self) -> Option<Value> {
        let end = self.rest.find([',', '}'])?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        // An unquoted NULL, in upper or lower case, is null. The text "NULL" is always quoted.
        if text.eq_ignore_ascii_case("null") {
            return Some(Value::Null);
        }
        (!text.is_empty()).then(|| super::decode(text, self.element))
    }
}

/// Encodes an array as a literal. Every element is quoted, which `array_in` accepts for every type.
pub(super) fn encode(value: &Value, element: &ValueKind) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| encode(item, element)).collect();
            format!("{{{}}}", items.join(","))
        }
        Value::Null => "NULL".to_owned(),
        scalar => {
            let text = super::encode(scalar, element);
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arrays_become_json_arrays() {
        for (text, expected) in
            [("{}", json!([])), ("{1,2,NULL}", json!([1, 2, null])), ("{{1,2},{3,4}}", json!([[1, 2], [3, 4]]))]
        {
            assert_eq!(decode(text, &ValueKind::Integer), Some(expected), "{text}");
        }
    }

    #[test]
    fn quoting_inside_an_array_is_undone() {
        assert_eq!(
            decode(r#"{a,"b c","d\"e\\f",NULL,"NULL","","ü,}{"}"#, &ValueKind::Text),
            Some(json!(["a", "b c", "d\"e\\f", null, "NULL", "", "ü,}{"]))
        );
    }

    #[test]
    fn what_is_no_plain_array_literal_is_not_decoded() {
        for text in ["", "{", "{1", "{1,}", "{1}x", "[2:3]={1,2}", "1", "{\"a", "{{{{{{{1}}}}}}}"] {
            assert_eq!(decode(text, &ValueKind::Integer), None, "{text}");
        }
    }
}
