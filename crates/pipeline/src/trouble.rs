//! What somebody is trying to get over, in the status for as long as that takes.
//!
//! Several may have a problem at the same time. The status shows the newest, and `walvec_up` every part that has one.

use walvec_broker::BrokerError;

use crate::status::Problem;
use crate::telemetry::Telemetry;

/// The owner of what the broker's client tries to get over by itself, which is shown if there is nothing else.
const BROKER: u64 = 0;

/// The part that problems with the broker are of.
pub(crate) const BROKERS_PART: &str = "broker";

/// Somebody's problem. It goes with whoever has it.
pub(crate) struct Trouble {
    telemetry: Telemetry,
    owner: u64,
    is_shown: bool,
}

impl Trouble {
    pub(crate) fn new(telemetry: &Telemetry) -> Self {
        Self { telemetry: telemetry.clone(), owner: telemetry.new_owner(), is_shown: false }
    }

    /// Shows `problem`, in place of what this one has shown before.
    pub(crate) fn show(&mut self, problem: Problem) {
        self.is_shown = true;
        self.telemetry.problems(|problems| {
            problems.retain(|(owner, _)| *owner != self.owner);
            problems.push((self.owner, problem));
        });
    }

    /// Whether this one shows `problem`.
    pub(crate) fn shows(&self, problem: &Problem) -> bool {
        self.telemetry.problem_where(|owner, _| owner == self.owner).as_ref() == Some(problem)
    }

    /// Whether somebody who came before has the same problem.
    pub(crate) fn is_anothers(&self, message: &str) -> bool {
        self.telemetry.problem_where(|owner, problem| owner < self.owner && problem.message == message).is_some()
    }

    /// Takes it out of the status; those of others stay.
    pub(crate) fn end(&mut self) {
        // Most never have any, and whoever watches the status shall not be woken for nothing.
        if std::mem::take(&mut self.is_shown) {
            self.telemetry.problems(|problems| problems.retain(|(owner, _)| *owner != self.owner));
        }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.end();
    }
}

impl Telemetry {
    /// Shows what the broker's client is trying to get over; `None`: it works, whoever had a problem with it before.
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
        let (mut embedder, mut sink) = (Trouble::new(&telemetry), Trouble::new(&telemetry));
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
        let (mut one, mut two) = (Trouble::new(&telemetry), Trouble::new(&telemetry));
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
        let mut sink = Trouble::new(&telemetry);
        sink.show(problem("sink"));
        telemetry.broker_trouble(Some(&BrokerError::Closed));
        assert_eq!(shown(&telemetry).as_deref(), Some("sink"));
        sink.end();
        assert_eq!(shown(&telemetry).as_deref(), Some("broker"));
        telemetry.broker_trouble(None);
        assert_eq!(shown(&telemetry), None);
    }
}
