//! Transient problems, shown in the status until their owner recovers or is dropped.
//!
//! Several owners may have a problem at the same time. The status shows the newest one, and `walvec_up` is 0 for every
//! part that has one.

use walvec_broker::BrokerError;

use crate::observe::status::Problem;
use crate::observe::telemetry::Telemetry;

/// The owner number of problems that the broker's client retries by itself. They are shown only if there is no other
/// problem.
const BROKER: u64 = 0;

/// The part under which problems with the broker are shown.
pub(crate) const BROKERS_PART: &str = "broker";

/// A transient problem of one owner. Dropping it removes the problem from the status.
pub(crate) struct ProblemGuard {
    telemetry: Telemetry,
    owner: u64,
    is_shown: bool,
}

impl ProblemGuard {
    pub(crate) fn new(telemetry: &Telemetry) -> Self {
        Self { telemetry: telemetry.clone(), owner: telemetry.new_owner(), is_shown: false }
    }

    /// Shows `problem`, in place of the problem that this owner has shown before.
    pub(crate) fn show(&mut self, problem: Problem) {
        self.is_shown = true;
        self.telemetry.problems(|problems| {
            problems.retain(|(owner, _)| *owner != self.owner);
            problems.push((self.owner, problem));
        });
    }

    /// Returns whether this owner shows `problem`.
    pub(crate) fn shows(&self, problem: &Problem) -> bool {
        self.telemetry.problem_where(|owner, _| owner == self.owner).as_ref() == Some(problem)
    }

    /// Returns whether an owner that was created earlier shows the same problem.
    pub(crate) fn is_anothers(&self, message: &str) -> bool {
        self.telemetry.problem_where(|owner, problem| owner < self.owner && problem.message == message).is_some()
    }

    /// Removes the problem from the status. The problems of other owners stay.
    pub(crate) fn end(&mut self) {
        // Most owners never have a problem. Do not wake the receivers of the status without a change.
        if std::mem::take(&mut self.is_shown) {
            self.telemetry.problems(|problems| problems.retain(|(owner, _)| *owner != self.owner));
        }
    }
}

impl Drop for ProblemGuard {
    fn drop(&mut self) {
        self.end();
    }
}

impl Telemetry {
    /// Shows the problem that the broker's client retries by itself. `None`: the broker works, and all problems with it are
    /// removed, including those of other owners.
    pub(crate) fn broker_trouble(&self, error: Option<&BrokerError>) {
        let Some(error) = error else {
            if self.problem_where(|_, problem| problem.part == BROKERS_PART).is_some() {
                self.problems(|problems| problems.retain(|(_, problem)| problem.part != BROKERS_PART));
            }
            return;
        };
        let part = BROKERS_PART.to_owned();
        let problem = Problem { part, message: error.to_string(), remedy: error.remedy(), attempts: 1 };
        if self.problem_where(|owner, _| owner == BROKER).as_ref() == Some(&problem) {
            return;
        }
        tracing::warn!(part = problem.part, "{}; trying again", problem.message);
        self.problems(|problems| {
            problems.retain(|(owner, _)| *owner != BROKER);
            problems.insert(0, (BROKER, problem));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(part: &str) -> Problem {
        Problem { part: part.to_owned(), message: "away".to_owned(), remedy: None, attempts: 1 }
    }

    fn shown(telemetry: &Telemetry) -> Option<String> {
        telemetry.subscribe().borrow().problem.as_ref().map(|problem| problem.part.clone())
    }

    #[test]
    fn a_problem_is_shown_until_whoever_has_it_is_over_it_or_gone() {
        let telemetry = Telemetry::new(Vec::new(), false);
        let (mut embedder, mut sink) = (ProblemGuard::new(&telemetry), ProblemGuard::new(&telemetry));
        embedder.show(problem("embedder"));
        sink.show(problem("sink"));
        assert_eq!(shown(&telemetry).as_deref(), Some("sink"), "the newest");
        sink.end();
        assert_eq!(shown(&telemetry).as_deref(), Some("embedder"), "it is still there");
        drop(embedder);
        assert_eq!(shown(&telemetry), None);
    }

    #[test]
    fn one_of_many_who_have_the_same_problem_speaks_for_all() {
        let telemetry = Telemetry::new(Vec::new(), false);
        let (mut one, mut two) = (ProblemGuard::new(&telemetry), ProblemGuard::new(&telemetry));
        two.show(problem("embedder"));
        assert!(!two.is_anothers("away"));
        one.show(problem("embedder"));
        assert!(!one.is_anothers("away") && two.is_anothers("away"));
        assert!(!two.is_anothers("ill"), "that is another problem");
        one.end();
        assert!(!two.is_anothers("away"));
    }

    #[test]
    fn what_the_broker_gets_over_by_itself_is_shown_if_there_is_nothing_else() {
        let telemetry = Telemetry::new(Vec::new(), false);
        let mut sink = ProblemGuard::new(&telemetry);
        sink.show(problem("sink"));
        telemetry.broker_trouble(Some(&BrokerError::Closed));
        assert_eq!(shown(&telemetry).as_deref(), Some("sink"));
        sink.end();
        assert_eq!(shown(&telemetry).as_deref(), Some("broker"));
        telemetry.broker_trouble(None);
        assert_eq!(shown(&telemetry), None);
    }

    #[test]
    fn a_broker_that_works_ends_the_problems_that_others_have_with_it_and_no_other() {
        let telemetry = Telemetry::new(Vec::new(), false);
        let (mut worker, mut sink) = (ProblemGuard::new(&telemetry), ProblemGuard::new(&telemetry));
        worker.show(problem(BROKERS_PART));
        sink.show(problem("sink"));
        telemetry.broker_trouble(None);
        assert!(!worker.shows(&problem(BROKERS_PART)) && sink.shows(&problem("sink")));
        assert_eq!(shown(&telemetry).as_deref(), Some("sink"));
    }

    #[test]
    fn a_subscriber_of_the_status_is_not_woken_without_a_change() {
        let telemetry = Telemetry::new(Vec::new(), false);
        let mut status = telemetry.subscribe();
        drop(ProblemGuard::new(&telemetry));
        telemetry.broker_trouble(None);
        assert!(!status.has_changed().unwrap(), "there was no problem");
        telemetry.broker_trouble(Some(&BrokerError::Closed));
        assert!(status.has_changed().unwrap());
        status.mark_unchanged();
        telemetry.broker_trouble(Some(&BrokerError::Closed));
        assert!(!status.has_changed().unwrap(), "it is known");
    }

    #[test]
    fn an_owner_shows_one_problem_and_not_that_of_another_owner() {
        let telemetry = Telemetry::new(Vec::new(), false);
        let (mut one, two) = (ProblemGuard::new(&telemetry), ProblemGuard::new(&telemetry));
        one.show(problem("embedder"));
        one.show(problem("sink"));
        assert!(one.shows(&problem("sink")) && !one.shows(&problem("embedder")));
        assert!(!two.shows(&problem("sink")));
        telemetry.all_well();
        assert_eq!(shown(&telemetry), None);
    }
}
