//! Keeps the guest's wall clock in step: asks for it, and sends corrections.

use std::time::{Instant, SystemTime};

use nacre_agent::protocol::{self, Failure, Request};

use crate::isolation::vm::{
    error::{SessionError, VmError},
    sandbox::session::Machine,
};

use super::{
    clock::{EXACT, Question, Reading, TRIES, Why, nanoseconds},
    owed::Owed,
    serve::Service,
};

impl<M: Machine> Service<'_, M> {
    /// Returns when to look at the clock. A guest that is paused, or was already asked, isn't
    /// asked.
    pub(super) fn clock_due(&self) -> Option<Instant> {
        let asked = || {
            self.owed
                .iter()
                .any(|owed| matches!(owed, Owed::Clock(question) if question.why == Why::Schedule))
        };
        let waits = self.notes.is_paused() || self.is_starting || asked();
        (!waits).then_some(self.clock.next)
    }

    /// Looks at the clock if it is time to.
    pub(super) fn follow_clock(&mut self) -> Result<(), VmError> {
        match self.clock_due() {
            Some(due) if Instant::now() >= due => self.look_at_clock(Why::Schedule),
            _ => Ok(()),
        }
    }

    /// Asks the guest what its clock shows, and corrects that.
    pub(super) fn look_at_clock(&mut self, why: Why) -> Result<(), VmError> {
        self.ask_clock(why, TRIES, None)
    }

    fn ask_clock(&mut self, why: Why, tries: u8, best: Option<Reading>) -> Result<(), VmError> {
        let question = Question {
            why,
            asked: SystemTime::now(),
            tries,
            best,
        };
        self.request(&Request::Clock(None), Owed::Clock(question))
    }

    pub(super) fn clock_told(
        &mut self,
        question: Question,
        result: Result<protocol::Answer, Failure>,
    ) -> Result<(), VmError> {
        let now = SystemTime::now();
        let best = match result {
            Ok(protocol::Answer::Clock(shown)) => {
                let new = Reading::new(shown, nanoseconds(question.asked), nanoseconds(now));
                let best = question.best.filter(|best| best.doubt <= new.doubt);
                best.unwrap_or(new)
            }
            Ok(_) => return Err(SessionError::Unasked.into()),
            Err(failure) => {
                tracing::warn!("container {}: {}", self.session.id, failure.message);
                return self.clock_is_right(question.why);
            }
        };
        if best.doubt > EXACT && question.tries > 1 {
            return self.ask_clock(question.why, question.tries - 1, Some(best));
        }
        let runs = question.why == Why::Schedule && self.notes.is_started();
        if let Some(correction) = best.correction(runs) {
            self.request(&Request::Clock(Some(correction)), Owed::Nobody)?;
        }
        self.clock.looked(best);
        self.clock_is_right(question.why)
    }

    fn clock_is_right(&mut self, why: Why) -> Result<(), VmError> {
        match why {
            Why::Start(client) => self.request_start(client),
            Why::Resume | Why::Schedule => Ok(()),
        }
    }
}
