//! nDCG@10, recall@10 and MRR, as trec_eval computes `ndcg_cut_10`, `recall_10` and `recip_rank`.

use std::collections::BTreeMap;
use std::fmt;

/// How relevant a document is to a query: 0 not at all, higher is more.
pub(super) type Grade = u32;

/// The grades, by query and document.
pub(super) type Judgements = BTreeMap<String, BTreeMap<String, Grade>>;

const CUT: usize = 10;

/// Means over the queries that have a relevant document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scores {
    ndcg: f64,
    recall: f64,
    mrr: f64,
    queries: usize,
}

impl Scores {
    /// Returns the scores of the documents found for each query, best first. Queries without a relevant document do not
    /// count; `None` if there is no other query.
    #[expect(clippy::cast_precision_loss, reason = "means of few numbers")]
    pub(super) fn of(judgements: &Judgements, runs: &[(String, Vec<String>)]) -> Option<Self> {
        let mut sum = Self { ndcg: 0.0, recall: 0.0, mrr: 0.0, queries: 0 };
        for (query, found) in runs {
            let Some(grades) = judgements.get(query).filter(|grades| grades.values().any(|grade| *grade > 0)) else {
                continue;
            };
            sum.ndcg += ndcg(grades, found);
            sum.recall += recall(grades, found);
            sum.mrr += reciprocal_rank(grades, found);
            sum.queries += 1;
        }
        let count = sum.queries as f64;
        let mean = Self { ndcg: sum.ndcg / count, recall: sum.recall / count, mrr: sum.mrr / count, ..sum };
        (sum.queries > 0).then_some(mean)
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} | {:.3} | {:.3} | {}", self.ndcg, self.recall, self.mrr, self.queries)
    }
}

fn grade(grades: &BTreeMap<String, Grade>, document: &str) -> Grade {
    grades.get(document).copied().unwrap_or(0)
}

/// Returns the nDCG: each grade counts less the later it comes (Järvelin and Kekäläinen, 2002), relative to the best
/// possible order.
fn ndcg(grades: &BTreeMap<String, Grade>, found: &[String]) -> f64 {
    let gained = gain(found.iter().map(|document| grade(grades, document)));
    let mut best: Vec<Grade> = grades.values().copied().collect();
    best.sort_unstable_by(|left, right| right.cmp(left));
    gained / gain(best.into_iter())
}

fn gain(grades: impl Iterator<Item = Grade>) -> f64 {
    (2_u32..).zip(grades.take(CUT)).map(|(place, grade)| f64::from(grade) / f64::from(place).log2()).sum()
}

/// Returns the share of the relevant documents that is among the first ten.
#[expect(clippy::cast_precision_loss, reason = "a share")]
fn recall(grades: &BTreeMap<String, Grade>, found: &[String]) -> f64 {
    let relevant = grades.values().filter(|grade| **grade > 0).count();
    let seen = found.iter().take(CUT).filter(|document| grade(grades, document) > 0).count();
    seen as f64 / relevant as f64
}

/// Returns 1 divided by the rank of the first relevant document.
fn reciprocal_rank(grades: &BTreeMap<String, Grade>, found: &[String]) -> f64 {
    let first = (1_u32..).zip(found).find(|(_, document)| grade(grades, document) > 0);
    first.map_or(0.0, |(place, _)| 1.0 / f64::from(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgements() -> Judgements {
        let grades = |pairs: &[(&str, Grade)]| pairs.iter().map(|(id, grade)| ((*id).to_owned(), *grade)).collect();
        [("1".to_owned(), grades(&[("a", 2), ("b", 1), ("c", 0)])), ("2".to_owned(), grades(&[("a", 0)]))].into()
    }

    fn scores(found: &[&str]) -> Scores {
        let found = found.iter().map(|id| (*id).to_owned()).collect();
        Scores::of(&judgements(), &[("1".to_owned(), found), ("2".to_owned(), Vec::new())]).unwrap()
    }

    #[test]
    fn the_best_order_scores_one_and_nothing_scores_zero() {
        assert_eq!(scores(&["a", "b", "c"]), Scores { ndcg: 1.0, recall: 1.0, mrr: 1.0, queries: 1 });
        assert_eq!(scores(&["c", "x"]), Scores { ndcg: 0.0, recall: 0.0, mrr: 0.0, queries: 1 });
    }

    #[test]
    fn what_comes_later_counts_less() {
        // Computed by hand: (1/log2(2) + 2/log2(4)) / (2/log2(2) + 1/log2(3)).
        let Scores { ndcg, recall, mrr, .. } = scores(&["b", "x", "a"]);
        assert!((ndcg - 2.0 / (2.0 + 1.0 / 3.0_f64.log2())).abs() < 1e-9, "{ndcg}");
        assert_eq!((recall, mrr), (1.0, 1.0));
        let late: Vec<&str> = ["x"; 10].into_iter().chain(["a"]).collect();
        let Scores { ndcg, recall, mrr, .. } = scores(&late);
        assert_eq!((ndcg, recall), (0.0, 0.0), "behind the cut");
        assert!((mrr - 1.0 / 11.0).abs() < 1e-9);
    }

    #[test]
    fn without_a_judged_query_there_is_no_score() {
        assert_eq!(Scores::of(&judgements(), &[("2".to_owned(), Vec::new())]), None);
    }
}
