//! The services of the callout server: the [`Service`] trait, the view of a mail that all of them
//! share, and the built-in services.
//!
//! A service gets a [`Request`] and answers with an [`Outcome`]: octets that change, side effects, new
//! messages, and what it found. It knows the SMTP profile's plain data, never a connection.

mod commitment;
mod conclusion;
mod content;
#[cfg(test)]
mod fixtures;
pub mod footer;
#[doc(hidden)]
pub mod fuzzing;
pub mod links;
pub mod log;
pub mod mail;
pub mod mail_from;
mod measure;
pub mod mime_strip;
pub mod normalize;
mod notification;
pub mod notify;
mod outcome;
mod password;
pub mod recipient_retry;
mod registry;
pub mod reply_filter;
pub mod report;
mod service;
pub mod setting;
pub mod spam_score;
mod temporary;
pub mod virus_scan;

pub use commitment::{Commitment, Prepared, Settlement};
pub use conclusion::{Conclusion, Fate, FateName, Found};
pub use content::{FileKind, Limits, Policy, Tag};
pub use mail_from::AddressList;
pub use measure::{Measure, MeasureKind};
pub use notification::{Notification, NotificationError, TextMail};
pub use outcome::{Change, Finding, Outcome};
pub use password::{Password, PasswordError};
pub use registry::{Kind, Registry, Settings, SettingsError};
pub use service::{
    Content, Declaration, Input, Request, Service, ServiceError, compute, mechanism_only,
};
pub use temporary::TemporaryFolder;
