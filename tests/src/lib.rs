//! Helpers that the whole-system stories share.
