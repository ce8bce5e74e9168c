//! Filters that let Jinja's operators compare and calculate with PostgreSQL's values.
//!
//! Jinja's operators know numbers and texts. PostgreSQL has two more values: NULL, and `numeric`, whose digits can
//! exceed what a floating-point number holds. In templates both are objects that print exactly. Before a template is
//! compiled, filters are inserted after its operands, which turn these objects into values that the operators
//! understand: `price * 2` becomes `price|_number * 2`, and `price > 2` becomes `price|_least > 2`.
//!
//! [`prepare`] only looks at tokens. A template that is not valid is still refused by the engine, and
//! [`original`](PreparedTemplate::original) translates the place of the error.

/// The filter that turns a numeric into a floating-point number, also inside a list. It leaves any other value alone.
pub const NUMBER: &str = "_number";
/// The filter that does what [`NUMBER`] does, and turns NULL into a value that is less than any other, so that `>` does
/// not hold for NULL.
pub const LEAST: &str = "_least";
/// The filter that does what [`NUMBER`] does, and turns NULL into a value that is greater than any other, so that `<`
/// does not hold for NULL.
pub const GREATEST: &str = "_greatest";

/// Jinja filters that calculate, whose input is therefore passed through [`NUMBER`] too.
const CALCULATING: [&str; 8] = ["float", "int", "abs", "round", "sum", "min", "max", "sort"];

/// Words that are not operands.
const WORDS: [&str; 8] = ["and", "or", "not", "in", "is", "if", "else", "recursive"];

/// A template with the filters inserted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreparedTemplate {
    /// The source to compile.
    pub source: String,
    /// Whether the template compares values by size.
    pub compares: bool,
    /// Where something was inserted: offsets in the original, in ascending order, each with the length of the insertion.
    inserted: Vec<(usize, usize)>,
}

impl PreparedTemplate {
    /// Translates an offset in the prepared template to one in the original.
    #[must_use]
    pub fn original(&self, offset: usize) -> usize {
        let mut before = 0;
        for (at, length) in &self.inserted {
            if at + before >= offset {
                break;
            }
            // The offset lies inside an insertion: return the place of the insertion.
            if at + before + length >= offset {
                return *at;
            }
            before += length;
        }
        offset - before
    }
}

/// Inserts the filters after the operands of `template`.
#[must_use]
pub fn prepare(template: &str) -> PreparedTemplate {
    let mut writer = FilterWriter { template, insertions: Vec::new(), compares: false };
    for (tokens, is_statement) in regions(template) {
        let mut reader = TokenReader { tokens: &tokens, at: 0 };
        if is_statement {
            let name = reader.next().map(|token| token.text(template));
            // The `in` of a loop is not an operator: skip the names up to it.
            if name == Some("for") {
                while reader.next().is_some_and(|token| token.text(template) != "in") {}
            }
        }
        writer.expression(&mut reader);
    }
    writer.finish()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TokenKind {
    Name,
    /// A number or a quoted text.
    Literal,
    Open,
    Close,
    Sign,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    kind: TokenKind,
    start: usize,
    end: usize,
}

impl Token {
    fn text<'a>(&self, template: &'a str) -> &'a str {
        template.get(self.start..self.end).unwrap_or_default()
    }
}

struct TokenReader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl TokenReader<'_> {
    fn peek(&self) -> Option<Token> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }
}

/// How an operator uses the operand next to it.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Nothing,
    /// Calculates with it, or tests it for equality.
    Number,
    /// Compares it by size, and holds if it is the lesser one.
    Less,
    /// Compares it by size, and holds if it is the greater one.
    Greater,
}

impl Use {
    /// Returns how the operator uses the operand on its left, and the one on its right.
    fn of(operator: &str) -> [Self; 2] {
        match operator {
            "+" | "-" | "*" | "/" | "//" | "%" | "**" | "==" | "!=" => [Self::Number, Self::Number],
            "in" | "not" => [Self::Number, Self::Nothing],
            "<" | "<=" => [Self::Less, Self::Greater],
            ">" | ">=" => [Self::Greater, Self::Less],
            _ => [Self::Nothing, Self::Nothing],
        }
    }

    /// Returns the filter for an operand between two operators. Calculation binds more tightly than comparison, so it wins.
    fn filter(before: Self, after: Self) -> Option<&'static str> {
        match (before, after) {
            (Self::Nothing, Self::Nothing) => None,
            (Self::Number, _) | (_, Self::Number) => Some(NUMBER),
            // In `a < b < c`, the first comparison does not hold if `b` is NULL, so neither does the whole expression.
            (Self::Less, _) | (Self::Nothing, Self::Less) => Some(GREATEST),
            (Self::Greater, _) | (Self::Nothing, Self::Greater) => Some(LEAST),
        }
    }
}

struct FilterWriter<'a> {
    template: &'a str,
    insertions: Vec<(usize, String)>,
    compares: bool,
}

impl FilterWriter<'_> {
    /// Reads up to a closing bracket or to the end of the tokens.
    fn expression(&mut self, reader: &mut TokenReader<'_>) {
        let mut before = Use::Nothing;
        let mut negated = false;
        while let Some(token) = reader.peek() {
            let text = token.text(self.template);
            match token.kind {
                TokenKind::Close => return,
                TokenKind::Sign if text == "-" && !self.follows_operand(reader) => {
                    negated = true;
                    reader.next();
                }
                TokenKind::Sign => {
                    before = Use::of(text)[1];
                    reader.next();
                }
                TokenKind::Name if WORDS.contains(&text) => {
                    before = Use::of(text)[1];
                    reader.next();
                }
                TokenKind::Name | TokenKind::Literal | TokenKind::Open => {
                    let end = self.operand(reader, std::mem::take(&mut negated));
                    let after = reader.peek().map_or(Use::Nothing, |next| Use::of(next.text(self.template))[0]);
                    self.compares |= [before, after].iter().any(|of| matches!(of, Use::Less | Use::Greater));
                    let is_literal = token.kind == TokenKind::Literal && token.end == end;
                    if let Some(filter) = Use::filter(before, after).filter(|_| !is_literal) {
                        self.insertions.push((end, format!("|{filter}")));
                    }
                    before = Use::Nothing;
                }
            }
        }
    }

    /// Returns whether the previous token ends an operand. If so, a sign that follows is binary.
    fn follows_operand(&self, reader: &TokenReader<'_>) -> bool {
        let last = reader.at.checked_sub(1).and_then(|at| reader.tokens.get(at));
        last.is_some_and(|last| match last.kind {
            TokenKind::Name => !WORDS.contains(&last.text(self.template)),
            TokenKind::Literal | TokenKind::Close => true,
            TokenKind::Open | TokenKind::Sign => false,
        })
    }

    /// Reads an operand with its members, calls and filters. Returns the offset at which it ends.
    fn operand(&mut self, reader: &mut TokenReader<'_>, is_negated: bool) -> usize {
        let first = reader.peek();
        let mut end = self.part(reader);
        loop {
            match reader.peek().map(|token| token.text(self.template)) {
                Some(".") => {
                    reader.next();
                    end = reader.next().map_or(end, |member| member.end);
                }
                Some("[" | "(") => end = self.part(reader),
                _ => break,
            }
        }
        // Jinja applies the sign before the filters.
        if let Some(first) = first.filter(|first| is_negated && first.kind != TokenKind::Literal) {
            self.insertions.push((first.start, "(".to_owned()));
            self.insertions.push((end, format!("|{NUMBER})")));
        }
        while let Some(bar) = reader.peek().filter(|token| token.text(self.template) == "|") {
            reader.next();
            let Some(name) = reader.next() else { return end };
            if CALCULATING.contains(&name.text(self.template)) {
                self.insertions.push((bar.start, format!("|{NUMBER}")));
            }
            end = name.end;
            if reader.peek().is_some_and(|token| token.text(self.template) == "(") {
                end = self.part(reader);
            }
        }
        end
    }

    /// Reads a token, or a bracket with its contents. Returns the offset at which it ends.
    fn part(&mut self, reader: &mut TokenReader<'_>) -> usize {
        let Some(token) = reader.next() else { return self.template.len() };
        if token.kind != TokenKind::Open {
            return token.end;
        }
        self.expression(reader);
        reader.next().map_or(token.end, |close| close.end)
    }
}

impl FilterWriter<'_> {
    fn finish(mut self) -> PreparedTemplate {
        // The sort is stable: of the insertions at one place, that of the inner expression was recorded first and stays first.
        self.insertions.sort_by_key(|(at, _)| *at);
        let mut source = String::with_capacity(self.template.len() + 16 * self.insertions.len());
        let mut from = 0;
        for (at, text) in &self.insertions {
            source.push_str(self.template.get(from..*at).unwrap_or_default());
            source.push_str(text);
            from = *at;
        }
        source.push_str(self.template.get(from..).unwrap_or_default());
        let inserted = self.insertions.iter().map(|(at, text)| (*at, text.len())).collect();
        PreparedTemplate { source, compares: self.compares, inserted }
    }
}

/// Returns the tokens of each `{{ }}` and `{% %}`, each with whether it is a statement. Skips comments and raw blocks.
fn regions(template: &str) -> Vec<(Vec<Token>, bool)> {
    let mut regions = Vec::new();
    let mut at = 0;
    while let Some(open) = template.get(at..).and_then(|rest| rest.find('{')) {
        at += open;
        let begin = template.get(at..at + 2).unwrap_or_default();
        match begin {
            "{#" => {
                let Some(end) = template[at..].find("#}") else { break };
                at += end + 2;
            }
            "{{" | "{%" => {
                let is_statement = begin == "{%";
                let (tokens, end) = tokens(template, at + 2, if is_statement { "%}" } else { "}}" });
                at = end;
                if is_statement && tokens.first().is_some_and(|token| token.text(template) == "raw") {
                    let Some(end) = template.get(at..).and_then(|rest| rest.find("endraw")) else { break };
                    at += end;
                    continue;
                }
                regions.push((tokens, is_statement));
            }
            _ => at += 1,
        }
    }
    regions
}

/// Returns the tokens up to `close`, and the offset after it.
fn tokens(template: &str, from: usize, close: &str) -> (Vec<Token>, usize) {
    let mut tokens: Vec<Token> = Vec::new();
    let mut depth = 0_usize;
    let mut at = from;
    // `{{-` and `{{+` control the white space before the tag.
    if template.get(at..).is_some_and(|rest| rest.starts_with(['-', '+'])) {
        at += 1;
    }
    while let Some(rest) = template.get(at..).filter(|rest| !rest.is_empty()) {
        let trimmed = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        if depth == 0 && trimmed.starts_with(close) {
            return (tokens, at + rest.len() - trimmed.len() + close.len());
        }
        let Some(first) = rest.chars().next() else { break };
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (kind, length) = token(rest, first);
        match kind {
            TokenKind::Open => depth += 1,
            TokenKind::Close => depth = depth.saturating_sub(1),
            TokenKind::Name | TokenKind::Literal | TokenKind::Sign => {}
        }
        tokens.push(Token { kind, start: at, end: at + length });
        at += length;
    }
    (tokens, template.len())
}

/// Returns the kind and the length of the token at the beginning of `rest`.
fn token(rest: &str, first: char) -> (TokenKind, usize) {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
    match first {
        '(' | '[' | '{' => (TokenKind::Open, 1),
        ')' | ']' | '}' => (TokenKind::Close, 1),
        '"' | '\'' => (TokenKind::Literal, length_of_text(rest, first)),
        _ if first.is_ascii_digit() => {
            let mut length = rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len());
            let fraction = rest.get(length..).and_then(|rest| rest.strip_prefix('.'));
            if let Some(fraction) = fraction.filter(|fraction| fraction.starts_with(|c: char| c.is_ascii_digit())) {
                length += 1 + fraction.find(|c: char| !is_of_name(c)).unwrap_or(fraction.len());
            }
            (TokenKind::Literal, length)
        }
        _ if is_of_name(first) => (TokenKind::Name, rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len())),
        _ => {
            let long = ["//", "**", "==", "!=", "<=", ">="].iter().any(|sign| rest.starts_with(sign));
            (TokenKind::Sign, if long { 2 } else { first.len_utf8() })
        }
    }
}

/// Returns the length of a quoted text, escapes included.
fn length_of_text(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_get_what_their_operators_can_work_with() {
        for (template, expected) in [
            ("{{ price }} {{ name|upper }}", "{{ price }} {{ name|upper }}"),
            ("{{ price * 2 }}", "{{ price|_number * 2 }}"),
            ("{{ a ~ b }} {{ row['a b'] }}", "{{ a ~ b }} {{ row['a b'] }}"),
            ("{% if price > 100 %}x{% endif %}", "{% if price|_least > 100 %}x{% endif %}"),
            ("{% if 100 >= p.price %}x{% endif %}", "{% if 100 >= p.price|_greatest %}x{% endif %}"),
            ("{% if a < b and c == d %}", "{% if a|_greatest < b|_least and c|_number == d|_number %}"),
            ("{{ a + b > c }}", "{{ a|_number + b|_number > c|_greatest }}"),
            ("{{ (a + 1)|round(2) }}", "{{ (a|_number + 1)|_number|round(2) }}"),
            ("{{ -price|abs }}", "{{ -(price|_number)|_number|abs }}"),
            ("{{ -row['a'].b }}", "{{ -(row['a'].b|_number) }}"),
            ("{{ a - b }} {{- a -}}", "{{ a|_number - b|_number }} {{- a -}}"),
            ("{{ price|float * 1.2 }}", "{{ price|_number|float|_number * 1.2 }}"),
            ("{{ f(a, b=c * 2)[d - 1] }}", "{{ f(a, b=c|_number * 2)[d|_number - 1] }}"),
            ("{% for x in xs if x.p > 1 %}", "{% for x in xs if x.p|_least > 1 %}"),
            ("{% set n = a // 10 * 10 %}", "{% set n = a|_number // 10 * 10 %}"),
            ("{{ 'yes' if a in [1, 2] else b }}", "{{ 'yes' if a|_number in [1, 2] else b }}"),
            ("{{ a if b is not none and not c else d }}", "{{ a if b is not none and not c else d }}"),
            (
                "{# a * 2 #}{% raw %}{{ a * 2 }}{% endraw %}{ {a * 2}",
                "{# a * 2 #}{% raw %}{{ a * 2 }}{% endraw %}{ {a * 2}",
            ),
            ("{{ 'a * 2 }}' ~ \"it\\\"s\" }}", "{{ 'a * 2 }}' ~ \"it\\\"s\" }}"),
            ("{{ {'a': {'b': a * 2}} }}", "{{ {'a': {'b': a|_number * 2}} }}"),
            ("{{ größe + 1", "{{ größe|_number + 1"),
            ("{{ a *", "{{ a|_number *"),
            ("{{ tags|join(', ') == 'x' }}", "{{ tags|join(', ')|_number == 'x' }}"),
        ] {
            assert_eq!(prepare(template).source, expected, "{template}");
        }
        assert!(prepare("{{ a < 1 }}").compares && !prepare("{{ a == 1 }}").compares);
    }

    #[test]
    fn places_in_the_prepared_template_are_places_in_the_original() {
        let template = "{{ a * b }} {{ c > d }}";
        let prepared = prepare(template);
        for (at, character) in prepared.source.char_indices().filter(|(_, c)| "abcd".contains(*c)) {
            let before = &prepared.source[..at];
            if !before.ends_with(|c: char| c.is_alphabetic() || c == '_') {
                assert_eq!(template[prepared.original(at)..].chars().next(), Some(character), "{at}");
            }
        }
        assert_eq!(prepared.original(prepared.source.len()), template.len());
    }
}
