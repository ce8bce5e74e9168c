//! What templates add to Jinja where values are compared and calculated with.
//!
//! Jinja's operators know numbers and texts. PostgreSQL has two values more: NULL, and `numeric`, a number with digits that a
//! floating-point number does not hold. In templates both are objects that print exactly. So that operators get what they can work with,
//! filters are put behind the operands before a template is compiled: `price * 2` is read as `price|_number * 2`, and `price > 2` as
//! `price|_least > 2`.
//!
//! [`prepare`] only looks at tokens. What is no template the engine refuses as before, at the place that
//! [`original`](Prepared::original) gives.

/// The filter that makes a floating-point number of a numeric, also inside a list. Anything else it leaves alone.
pub const NUMBER: &str = "_number";
/// The same, but NULL becomes what is less than anything: behind it, nothing is found to be greater.
pub const LEAST: &str = "_least";
/// The same, but NULL becomes what is greater than anything.
pub const GREATEST: &str = "_greatest";

/// Filters that calculate: they get numbers too.
const CALCULATING: [&str; 8] = ["float", "int", "abs", "round", "sum", "min", "max", "sort"];

/// Words that are no operands.
const WORDS: [&str; 8] = ["and", "or", "not", "in", "is", "if", "else", "recursive"];

/// A template with these filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// What to compile.
    pub source: String,
    /// Whether values are compared by size.
    pub compares: bool,
    /// Offsets in the original, in ascending order, with the length of what was inserted there.
    inserted: Vec<(usize, usize)>,
}

impl Prepared {
    /// The offset in the original of an offset in the prepared template.
    #[must_use]
    pub fn original(&self, offset: usize) -> usize {
        let mut before = 0;
        for (at, length) in &self.inserted {
            if at + before >= offset {
                break;
            }
            // Inside of what was inserted: the place at which it was.
            if at + before + length >= offset {
                return *at;
            }
            before += length;
        }
        offset - before
    }
}

/// Puts the filters behind the operands of `template`.
#[must_use]
pub fn prepare(template: &str) -> Prepared {
    let mut writer = Writer { template, insertions: Vec::new(), compares: false };
    for (tokens, is_statement) in regions(template) {
        let mut reader = Reader { tokens: &tokens, at: 0 };
        if is_statement {
            let name = reader.next().map(|token| token.text(template));
            // What a loop runs over is no comparison.
            if name == Some("for") {
                while reader.next().is_some_and(|token| token.text(template) != "in") {}
            }
        }
        writer.expression(&mut reader);
    }
    writer.finish()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Name,
    /// A number or a text.
    Literal,
    Open,
    Close,
    Sign,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

impl Token {
    fn text<'a>(&self, template: &'a str) -> &'a str {
        template.get(self.start..self.end).unwrap_or_default()
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<Token> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }
}

/// What an operator does with the operand beside it.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Nothing,
    /// Calculates with it, or looks whether it is the same.
    Number,
    /// Compares it by size; it holds for what is less.
    Less,
    /// Compares it by size; it holds for what is greater.
    Greater,
}

impl Use {
    /// What the operator does with the operand on its left, and with the one on its right.
    fn of(operator: &str) -> [Self; 2] {
        match operator {
            "+" | "-" | "*" | "/" | "//" | "%" | "**" | "==" | "!=" => [Self::Number, Self::Number],
            "in" | "not" => [Self::Number, Self::Nothing],
            "<" | "<=" => [Self::Less, Self::Greater],
            ">" | ">=" => [Self::Greater, Self::Less],
            _ => [Self::Nothing, Self::Nothing],
        }
    }

    /// The filter for an operand between two operators. What is calculated is compared afterwards.
    fn filter(before: Self, after: Self) -> Option<&'static str> {
        match (before, after) {
            (Self::Nothing, Self::Nothing) => None,
            (Self::Number, _) | (_, Self::Number) => Some(NUMBER),
            // In `a < b < c` the first comparison does not hold for NULL, and then the whole does not.
            (Self::Less, _) | (Self::Nothing, Self::Less) => Some(GREATEST),
            (Self::Greater, _) | (Self::Nothing, Self::Greater) => Some(LEAST),
        }
    }
}

struct Writer<'a> {
    template: &'a str,
    insertions: Vec<(usize, String)>,
    compares: bool,
}

impl Writer<'_> {
    /// Reads up to a bracket that closes, or to the end.
    fn expression(&mut self, reader: &mut Reader<'_>) {
        let mut before = Use::Nothing;
        let mut negated = false;
        while let Some(token) = reader.peek() {
            let text = token.text(self.template);
            match token.kind {
                Kind::Close => return,
                Kind::Sign if text == "-" && !self.follows_operand(reader) => {
                    negated = true;
                    reader.next();
                }
                Kind::Sign => {
                    before = Use::of(text)[1];
                    reader.next();
                }
                Kind::Name if WORDS.contains(&text) => {
                    before = Use::of(text)[1];
                    reader.next();
                }
                Kind::Name | Kind::Literal | Kind::Open => {
                    let end = self.operand(reader, std::mem::take(&mut negated));
                    let after = reader.peek().map_or(Use::Nothing, |next| Use::of(next.text(self.template))[0]);
                    self.compares |= [before, after].iter().any(|of| matches!(of, Use::Less | Use::Greater));
                    let is_literal = token.kind == Kind::Literal && token.end == end;
                    if let Some(filter) = Use::filter(before, after).filter(|_| !is_literal) {
                        self.insertions.push((end, format!("|{filter}")));
                    }
                    before = Use::Nothing;
                }
            }
        }
    }

    /// Whether the token before the next one ends an operand, so that a sign behind it stands between two.
    fn follows_operand(&self, reader: &Reader<'_>) -> bool {
        let last = reader.at.checked_sub(1).and_then(|at| reader.tokens.get(at));
        last.is_some_and(|last| match last.kind {
            Kind::Name => !WORDS.contains(&last.text(self.template)),
            Kind::Literal | Kind::Close => true,
            Kind::Open | Kind::Sign => false,
        })
    }

    /// Reads an operand with its members, calls and filters; returns where it ends.
    fn operand(&mut self, reader: &mut Reader<'_>, is_negated: bool) -> usize {
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
        // Jinja negates before it filters.
        if let Some(first) = first.filter(|first| is_negated && first.kind != Kind::Literal) {
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

    /// Reads a token, or what is in brackets; returns where it ends.
    fn part(&mut self, reader: &mut Reader<'_>) -> usize {
        let Some(token) = reader.next() else { return self.template.len() };
        if token.kind != Kind::Open {
            return token.end;
        }
        self.expression(reader);
        reader.next().map_or(token.end, |close| close.end)
    }
}

impl Writer<'_> {
    fn finish(mut self) -> Prepared {
        // Those at one place stay in their order: what ends first was written first.
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
        Prepared { source, compares: self.compares, inserted }
    }
}

/// The tokens of each `{{ }}` and `{% %}`, with whether it is a statement. What is in comments and raw blocks is none of them.
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

/// The tokens up to `close`, and the offset behind it.
fn tokens(template: &str, from: usize, close: &str) -> (Vec<Token>, usize) {
    let mut tokens: Vec<Token> = Vec::new();
    let mut depth = 0_usize;
    let mut at = from;
    // `{{-` and `{{+` say what becomes of the spaces before.
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
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Name | Kind::Literal | Kind::Sign => {}
        }
        tokens.push(Token { kind, start: at, end: at + length });
        at += length;
    }
    (tokens, template.len())
}

/// The kind and the length of the token at the beginning of `rest`.
fn token(rest: &str, first: char) -> (Kind, usize) {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
    match first {
        '(' | '[' | '{' => (Kind::Open, 1),
        ')' | ']' | '}' => (Kind::Close, 1),
        '"' | '\'' => (Kind::Literal, length_of_text(rest, first)),
        _ if first.is_ascii_digit() => {
            let mut length = rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len());
            let fraction = rest.get(length..).and_then(|rest| rest.strip_prefix('.'));
            if let Some(fraction) = fraction.filter(|fraction| fraction.starts_with(|c: char| c.is_ascii_digit())) {
                length += 1 + fraction.find(|c: char| !is_of_name(c)).unwrap_or(fraction.len());
            }
            (Kind::Literal, length)
        }
        _ if is_of_name(first) => (Kind::Name, rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len())),
        _ => {
            let long = ["//", "**", "==", "!=", "<=", ">="].iter().any(|sign| rest.starts_with(sign));
            (Kind::Sign, if long { 2 } else { first.len_utf8() })
        }
    }
}

/// The length of a text in quotes, with its escapes.
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
