//! Anything that can be done to a spool, in any order, beside a model of it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Accept {
        recipients: usize,
        delay: Option<u64>,
        hold: bool,
        commit: bool,
    },
    Settle {
        entry: usize,
        settlements: Vec<(usize, u8)>,
        report: bool,
    },
    Hold(usize),
    Release(usize),
    Flush(usize),
    Delete(usize),
    /// The next ones are done beside the owner, or by it.
    Beside(bool),
    Wait(u64),
    Open,
}

#[derive(Clone, Debug)]
struct Waiting {
    /// `None` once settled, else when the next attempt is due.
    recipients: Vec<Option<u64>>,
    not_before: u64,
    hold: bool,
    reports: usize,
}

impl Waiting {
    fn due(&self) -> Option<u64> {
        let next = self.recipients.iter().flatten().min()?;
        (!self.hold).then_some(*next.max(&self.not_before))
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let delay = proptest::option::weighted(0.3, 0_u64..50);
    let accept = (1_usize..4, delay, proptest::bool::weighted(0.1), proptest::bool::weighted(0.9));
    let settlements = proptest::collection::vec((0_usize..4, 0_u8..6), 0..4);
    prop_oneof![
        3 => accept.prop_map(|(recipients, delay, hold, commit)| {
            Operation::Accept { recipients, delay, hold, commit }
        }),
        5 => (any::<usize>(), settlements, any::<bool>()).prop_map(|(entry, settlements, report)| {
            Operation::Settle { entry, settlements, report }
        }),
        1 => any::<usize>().prop_map(Operation::Hold),
        1 => any::<usize>().prop_map(Operation::Release),
        1 => any::<usize>().prop_map(Operation::Flush),
        1 => any::<usize>().prop_map(Operation::Delete),
        1 => any::<bool>().prop_map(Operation::Beside),
        2 => (1_u64..40).prop_map(Operation::Wait),
        1 => Just(Operation::Open),
    ]
}

struct Both {
    folder: tempfile::TempDir,
    owner: Option<Spool>,
    model: BTreeMap<Id, Waiting>,
    beside: bool,
    now: u64,
}

impl Both {
    fn owner(&self) -> &Spool {
        self.owner.as_ref().unwrap()
    }

    fn chosen(&self, number: usize) -> Option<Id> {
        self.model.keys().nth(number % self.model.len().max(1)).cloned()
    }

    /// Does it by whoever's turn it is.
    fn by<T>(&self, work: impl FnOnce(&Spool) -> T) -> T {
        if !self.beside {
            return work(self.owner());
        }
        let done = work(&Spool::beside(self.folder.path()).unwrap());
        self.owner().refresh().unwrap();
        done
    }

    fn carry_out(&mut self, operation: Operation) {
        let now = self.now;
        match operation {
            Operation::Accept { recipients, delay, hold, commit } => {
                let entry = NewEntry {
                    not_before: delay.map(|delay| at(now + delay)),
                    hold: hold.then(|| "why".to_owned()),
                    ..to(&["<a@b>", "<c@d>", "<e@f>"][..recipients])
                };
                let waiting = Waiting {
                    recipients: vec![Some(now); recipients],
                    not_before: delay.map_or(0, |delay| now + delay),
                    hold,
                    reports: 0,
                };
                let accepted = self.by(|spool| {
                    let mut writer = spool.accept(entry, at(now)).unwrap();
                    writer.write(b"Hello").unwrap();
                    commit.then(|| writer.commit().unwrap().id)
                });
                self.model.extend(accepted.map(|id| (id, waiting)));
            }
            Operation::Settle { entry, settlements, report } => {
                let Some(id) = self.chosen(entry) else { return };
                self.settle(&id, &settlements, report);
            }
            Operation::Hold(entry) => {
                let Some(id) = self.chosen(entry) else { return };
                self.by(|spool| spool.hold(&id, "why")).unwrap();
                self.model.get_mut(&id).unwrap().hold = true;
            }
            Operation::Release(entry) => {
                let Some(id) = self.chosen(entry) else { return };
                let released = self.by(|spool| spool.release(&id, at(now)));
                let waiting = self.model.get_mut(&id).unwrap();
                assert_eq!(released.is_ok(), waiting.hold || waiting.not_before > now);
                if released.is_ok() {
                    (waiting.hold, waiting.not_before) = (false, now);
                }
            }
            Operation::Flush(entry) => {
                let Some(id) = self.chosen(entry) else { return };
                self.by(|spool| spool.flush(&id, at(now))).unwrap();
                for due in self.model.get_mut(&id).unwrap().recipients.iter_mut().flatten() {
                    *due = now.min(*due);
                }
            }
            Operation::Delete(entry) => {
                let Some(id) = self.chosen(entry) else { return };
                self.by(|spool| spool.delete(&id)).unwrap();
                self.model.remove(&id);
            }
            Operation::Beside(beside) => self.beside = beside,
            Operation::Wait(seconds) => self.now += seconds,
            Operation::Open => {
                self.owner = None;
                self.owner = Some(open(self.folder.path()));
            }
        }
    }

    fn settle(&mut self, id: &Id, settlements: &[(usize, u8)], with_report: bool) {
        let now = self.now;
        let claimed = self.owner().claim(id, at(now)).unwrap();
        let waiting = self.model.get_mut(id).unwrap();
        assert_eq!(claimed.is_some(), waiting.due().is_some_and(|due| due <= now));
        let Some(mut claim) = claimed else { return };
        let mut made = Vec::new();
        for (place, what) in settlements {
            let (settlement, due) = match what {
                0 => (delivered(), None),
                1 => (failed(), None),
                wait => {
                    let until = now + u64::from(*wait) * 10;
                    (deferred(until), Some(until))
                }
            };
            made.push((*place, settlement));
            if let Some(state) = waiting.recipients.get_mut(*place).filter(|due| due.is_some()) {
                *state = due;
            }
        }
        // A report has the null sender, and so no report.
        let with_report = with_report && !id.as_str().contains("report");
        let report = with_report.then(report);
        claim.settle(&made, report.as_ref(), at(now)).unwrap();
        waiting.reports += usize::from(with_report);
        let done = waiting.recipients.iter().all(Option::is_none);
        assert_eq!(claim.is_done(), done);
        drop(claim);
        if with_report {
            let name = id.derived(&format!("report-{}", waiting.reports)).unwrap();
            let entry =
                Waiting { recipients: vec![Some(now)], not_before: 0, hold: false, reports: 0 };
            assert_eq!(text(self.owner.as_ref().unwrap(), &name), "before:Hell:after");
            self.model.insert(name, entry);
        }
        if done {
            self.model.remove(id);
        }
    }

    fn check(&self) {
        let (entries, broken) = self.owner().entries().unwrap();
        assert_eq!(broken, []);
        let names: Vec<&Id> = entries.iter().map(|entry| &entry.id).collect();
        assert_eq!(names, self.model.keys().collect::<Vec<_>>());
        for entry in &entries {
            let due = self.model[&entry.id].due().map(|due| at(due).into());
            assert_eq!(entry.due(), due, "{}", entry.id);
        }
        let mut due: Vec<(u64, &Id)> =
            self.model.iter().filter_map(|(id, waiting)| Some((waiting.due()?, id))).collect();
        due.sort();
        assert_eq!(self.owner().next_due(), due.first().map(|(first, _)| at(*first)));
        let now: Vec<Id> =
            due.iter().filter(|(due, _)| *due <= self.now).map(|(_, id)| (*id).clone()).collect();
        assert_eq!(self.owner().due(at(self.now), usize::MAX), now);
        // Nothing but entries: two files each.
        let files = std::fs::read_dir(self.folder.path().join("spool")).unwrap().count();
        assert_eq!(files, 2 * entries.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_spool_does_what_its_model_does(
        operations in proptest::collection::vec(operation(), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let owner = Some(open(folder.path()));
        let mut both = Both { folder, owner, model: BTreeMap::new(), beside: false, now: 0 };
        for operation in operations {
            both.carry_out(operation);
            both.check();
        }
    }
}
