//! Services that are told what the group has made of an event, and may have others told of it.

use std::time::{Duration, Instant};

use ocp_proto::smtp::Verdict;
use services::{
    Change, Conclusion, Fate, Finding, Found, Input, Notification, Outcome, Request, ServiceError,
};
use tracing::warn;

use super::{Adapted, milliseconds, shadow, verdict};
use crate::branch::Branch;
use crate::metrics::ServiceResult;
use crate::router::Link;

/// What is gathered for them while the others are asked; nothing where there are none.
#[derive(Debug, Default)]
pub(super) struct Conclusions<'a> {
    links: Vec<&'a Link>,
    input: Option<Input>,
    found: Vec<Found>,
}

impl<'a> Conclusions<'a> {
    /// One more service that concludes, of an event that came with this.
    pub(super) fn add(&mut self, link: &'a Link, input: &Input) {
        self.input.get_or_insert_with(|| input.clone());
        self.links.push(link);
    }

    /// A service has answered.
    pub(super) fn found(&mut self, service: &str, finding: &Finding) {
        if !self.links.is_empty() {
            self.found.push(Found { service: service.to_owned(), finding: finding.clone() });
        }
    }

    /// Asks those services, in their order. Their failures are in the log, and change nothing.
    pub(super) async fn ask(
        self,
        mut request: Request,
        branches: &[Branch],
        may_notify: bool,
        verdicts: &mut Vec<Verdict>,
        notifications: &mut Vec<Notification>,
    ) {
        let Self { links, input: Some(input), found } = self else { return };
        request.input = input;
        request.envelope.recipients =
            branches.iter().flat_map(|branch| branch.recipients.iter().cloned()).collect();
        let fates: Vec<Fate> = branches.iter().map(fate).collect();
        for link in links.into_iter().filter(|link| branches.iter().any(|one| link.is_for(one))) {
            let started = Instant::now();
            request.parameters = link.parameters.clone();
            request.may_notify = may_notify && link.entry.declaration.notifies;
            let conclusion = Conclusion { request: &request, found: &found, fates: &fates };
            let concluded = match link.guarded(|| link.entry.service.conclude(&conclusion)).await {
                Ok(outcome) if link.entry.shadow => {
                    Ok((shadow::finding(&link.entry.name, outcome), Vec::new()))
                }
                Ok(outcome) => link.told(outcome, notifications.len(), &request),
                Err(error) => Err(error),
            };
            let (took, profile) = (started.elapsed(), request.input.profile());
            let metrics = &link.entry.metrics;
            let finding = match concluded {
                Ok((finding, new)) => {
                    notifications.extend(new);
                    metrics.answered(profile, &request.command, ServiceResult::Unchanged, took);
                    finding
                }
                Err(error) => {
                    metrics.failed(profile, &request.command, &error, took);
                    failed(&link.entry.name, &error, took)
                }
            };
            verdicts.push(verdict(link.entry.uri(), finding, took));
        }
    }
}

impl Link {
    /// What it has to tell; an answer beyond what it may say counts as a failure.
    fn told(
        &self,
        outcome: Outcome,
        before: usize,
        request: &Request,
    ) -> Result<(Finding, Vec<Notification>), ServiceError> {
        let Outcome { change, effects, notifications, finding, .. } = outcome;
        if change != Change::None || !effects.is_empty() {
            let cause = "a change of what has been concluded";
            return Err(ServiceError::new("answer", cause));
        }
        match self.too_much(&notifications, before, request) {
            Some(cause) => Err(ServiceError::new("answer", cause)),
            None => Ok((finding, notifications)),
        }
    }
}

fn fate(branch: &Branch) -> Fate {
    let reply = match &branch.adapted {
        Adapted::Reply(reply) => Some(reply.clone()),
        _ => None,
    };
    Fate {
        recipients: branch.recipients.clone(),
        is_changed: matches!(branch.adapted, Adapted::Command(_) | Adapted::Content(_)),
        reply,
        effects: branch.effects.clone(),
    }
}

fn failed(service: &str, error: &ServiceError, took: Duration) -> Finding {
    let (stage, cause, took_ms) = (error.stage, &error.cause, milliseconds(took));
    warn!(service, stage, cause, took_ms, policy = "accept", "service failed");
    Finding::new("failed").with_reason(format!("{error}; policy: accept"))
}
