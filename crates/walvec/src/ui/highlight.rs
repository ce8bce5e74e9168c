//! Query words inside texts, as markup.

use maud::{Markup, html};

use crate::search::words::QueryWords;

impl QueryWords {
    /// Returns the text as escaped markup, with the words of the query in `<mark>`.
    pub(super) fn mark(&self, text: &str) -> Markup {
        html! {
            @for (run, is_of_query) in self.runs(text) {
                @if is_of_query { mark { (run) } } @else { (run) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(query: &str, text: &str) -> String {
        QueryWords::of(query).mark(text).into_string()
    }

    #[test]
    fn words_of_the_query_are_marked_in_any_case_and_number() {
        assert_eq!(
            marked("the whales", "The Whale, a WHALES' tale"),
            "The <mark>Whale</mark>, a <mark>WHALES</mark>' tale"
        );
        assert_eq!(marked("été", "ÉTÉ"), "<mark>ÉTÉ</mark>");
        assert_eq!(marked("sea", "season and seas"), "season and <mark>seas</mark>");
    }

    #[test]
    fn marking_never_lets_markup_through() {
        let text = "<img src=x onerror=alert(1)> & \"img\"";
        let expected = "&lt;<mark>img</mark> src=x onerror=alert(1)&gt; &amp; &quot;<mark>img</mark>&quot;";
        assert_eq!(marked("img <script>", text), expected);
    }

    #[test]
    fn words_without_meaning_of_their_own_stay_plain() {
        assert_eq!(marked("what is in the of", "what is in the of"), "what is in the of");
    }
}
