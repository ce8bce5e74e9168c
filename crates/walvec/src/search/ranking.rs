//! The order of the hits of a search, and a page of them.

use walvec_embed::{EmbedError, Embedder};
use walvec_model::Vector;
use walvec_sink::{Filter, Hit, HitPlace, Query, Search, SearchRequest, SinkError, page_of_hits};

use super::cursor::Cursor;
use super::mode::{Mode, NO_WORD_COUNTS, ResolvedMode, SearchRefusal};

/// The message for a cursor of another search.
pub(crate) const OF_ANOTHER_SEARCH: &str = "the cursor is of another search: query, collection, mode, limit, group, min_score and filter \
     have to be those of the page before; leave the cursor out for the first page";

/// Everything that decides about the order of hits and the ends of pages.
pub(crate) struct Ranking<'a> {
    pub(crate) collection: &'a str,
    pub(crate) text: &'a str,
    pub(crate) mode: Mode,
    pub(crate) filter: &'a Filter,
    pub(crate) min_score: Option<f32>,
    pub(crate) by_row: bool,
    pub(crate) limit: usize,
}

/// A page of hits.
pub(crate) struct RankedPage {
    /// The hits, best first.
    pub(crate) hits: Vec<Hit>,
    /// Where the next page begins; `None` at the end.
    pub(crate) next: Option<Cursor>,
    /// Why there can be no hits.
    pub(crate) note: Option<&'static str>,
}

impl Ranking<'_> {
    /// Returns where a page begins: at the cursor, or with the best hit.
    pub(crate) fn place(&self, cursor: Option<&Cursor>) -> Result<HitPlace, SearchRefusal> {
        let refused = || SearchRefusal(OF_ANOTHER_SEARCH.to_owned());
        cursor.map_or(Ok(HitPlace::default()), |cursor| cursor.place_in(self).ok_or_else(refused))
    }

    /// Finds the page that begins at a place. `query` is the text in the mode of the ranking.
    pub(crate) async fn page(
        &self,
        search: &dyn Search,
        query: Query,
        place: HitPlace,
    ) -> Result<RankedPage, SinkError> {
        let counts_no_word = matches!(&query, Query::Keyword(tokens) if tokens.is_empty());
        let Self { limit, min_score, by_row, .. } = *self;
        let request = SearchRequest { query, limit, filter: self.filter.clone(), min_score };
        let page = page_of_hits(search, request, place, by_row).await?;
        let next = page.next.map(|next| Cursor::new(self, next));
        Ok(RankedPage { hits: page.hits, next, note: counts_no_word.then_some(NO_WORD_COUNTS) })
    }
}

/// The vector of a query.
pub(crate) struct QueryVector {
    vector: Vector,
    /// Whether the model has read only the beginning of the text.
    is_cut: bool,
}

impl QueryVector {
    /// Embeds as much of the text as the model reads.
    pub(crate) async fn of(embedder: &dyn Embedder, text: String) -> Result<Self, EmbedError> {
        match embedder.embed_query_whole(text.clone()).await {
            Ok(vector) => Ok(Self { vector, is_cut: false }),
            Err(EmbedError::TooLong { .. }) => Ok(Self { vector: embedder.embed_query(text).await?, is_cut: true }),
            Err(error) => Err(error),
        }
    }
}

impl ResolvedMode<'_> {
    /// Makes the query for a text. `vector` is awaited if meanings are compared. Also returns whether the model has read only the beginning
    /// of the text.
    pub(crate) async fn query<E>(
        self,
        text: &str,
        vector: impl Future<Output = Result<QueryVector, E>>,
    ) -> Result<(Query, bool), E> {
        Ok(match self {
            Self::Keyword(keywords) => (Query::Keyword(keywords.query(text)), false),
            Self::Dense => {
                let QueryVector { vector, is_cut } = vector.await?;
                (Query::Dense(vector), is_cut)
            }
            Self::Hybrid(keywords) => {
                let QueryVector { vector, is_cut } = vector.await?;
                (Query::Hybrid(vector, keywords.query(text)), is_cut)
            }
        })
    }
}
