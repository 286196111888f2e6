//! Plans that were shown to somebody and may be carried out: the last few, in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::Plan;

/// Plans that are kept.
const KEPT: usize = 8;

/// The plans of one collector.
#[derive(Default)]
pub(crate) struct Plans(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    last: u64,
    plans: VecDeque<(String, Arc<Plan>)>,
}

impl Plans {
    /// Keeps a plan, and gives it a name that no earlier plan had, of an earlier daemon neither.
    pub(crate) fn keep(&self, plan: Plan) -> (String, Arc<Plan>) {
        let plan = Arc::new(plan);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut kept = self.0.lock();
        kept.last += 1;
        let id = format!("{:x}-{}", now.as_micros(), kept.last);
        kept.plans.push_back((id.clone(), Arc::clone(&plan)));
        if kept.plans.len() > KEPT {
            kept.plans.pop_front();
        }
        (id, plan)
    }

    /// Takes a plan out, to be carried out once.
    pub(crate) fn take(&self, id: &str) -> Option<Arc<Plan>> {
        let mut kept = self.0.lock();
        let at = kept.plans.iter().position(|(name, _)| name == id)?;
        kept.plans.remove(at).map(|(_, plan)| plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_kept_and_each_is_given_once() {
        let plans = Plans::default();
        let ids: Vec<String> = (0..=KEPT).map(|_| plans.keep(Plan::default()).0).collect();
        assert!(plans.take(&ids[0]).is_none());
        assert!(plans.take(&ids[1]).is_some() && plans.take(&ids[1]).is_none());
        assert!(plans.take(&ids[KEPT]).is_some() && plans.take("").is_none());
    }
}
