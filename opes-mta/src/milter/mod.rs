//! The milter protocol, version 6, as an MTA's peer speaks it (`libmilter/mfdef.h` of sendmail and
//! `src/milter/milter8.c` of Postfix are what there is of a specification): octets to packets and back,
//! without sockets.

mod modification;

pub use modification::Modification;
