//! Where stored mail lies: files, folders, mailboxes, the standard input.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use ocp_proto::smtp::Address;

use super::file::StoredMail;
use super::mbox::{Messages, Stored, sender_of};

/// A file with one message or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What reports call it: its path within the folder that was given, or the path as given.
    pub name: String,
    /// What its output is called: relative, without `..`.
    pub output: PathBuf,
    /// Where to read it.
    pub place: Place,
    /// Its size, if known beforehand.
    pub octets: u64,
}

/// Where to read a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This file.
    File(PathBuf),
    /// The standard input.
    Standard,
}

/// One message of a source.
#[derive(Debug)]
pub struct Found {
    /// The message, or its name and why it can't be read.
    pub mail: Result<StoredMail, (String, io::Error)>,
    /// What its output is called.
    pub output: PathBuf,
    /// Octets of the source that this message is.
    pub octets: u64,
}

/// The sources that these arguments name, in their order; a folder's in the order of their paths.
/// Symbolic links in folders are passed over: what they lead to was not given to us.
///
/// # Errors
/// The first path that can't be read, with the system's word.
pub fn find(arguments: &[PathBuf]) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for argument in arguments {
        let with_path = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", argument.display()))
        };
        if argument.as_os_str() == "-" {
            sources.push(Source {
                name: "-".to_owned(),
                output: "stdin".into(),
                place: Place::Standard,
                octets: 0,
            });
            continue;
        }
        let metadata = fs::metadata(argument).map_err(with_path)?;
        if metadata.is_dir() {
            walk(argument, &mut sources).map_err(with_path)?;
            continue;
        }
        let output = argument.file_name().map(PathBuf::from).ok_or_else(|| {
            with_path(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"))
        })?;
        sources.push(Source {
            name: argument.display().to_string(),
            output,
            place: Place::File(argument.clone()),
            octets: metadata.len(),
        });
    }
    Ok(sources)
}

fn walk(folder: &Path, sources: &mut Vec<Source>) -> io::Result<()> {
    // Paths within the folder that are still to be looked at, the next one last.
    let mut pending = vec![PathBuf::new()];
    while let Some(within) = pending.pop() {
        let path = folder.join(&within);
        // The folder itself may be a link: it was given by name.
        let metadata = if within.as_os_str().is_empty() {
            fs::metadata(&path)?
        } else {
            fs::symlink_metadata(&path)?
        };
        if metadata.is_dir() {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path)? {
                names.push(within.join(entry?.file_name()));
            }
            names.sort_unstable_by(|a, b| b.cmp(a));
            pending.append(&mut names);
        } else if metadata.is_file() {
            sources.push(Source {
                name: within.display().to_string(),
                output: within,
                place: Place::File(path),
                octets: metadata.len(),
            });
        }
    }
    Ok(())
}

impl Source {
    /// Reads the messages and hands each to `take`, until that says that nobody wants more. The
    /// sender is `sender`, or that of the `From ` line, or that of the Return-Path field, or null.
    pub fn read(
        &self,
        sender: Option<&Address>,
        recipients: &[Address],
        mut take: impl FnMut(Found) -> bool,
    ) {
        let reader: io::Result<Box<dyn BufRead>> = match &self.place {
            Place::File(path) => File::open(path).map(|file| Box::new(BufReader::new(file)) as _),
            Place::Standard => Ok(Box::new(BufReader::new(io::stdin()))),
        };
        let messages = match reader {
            Ok(reader) => Messages::new(reader),
            Err(error) => {
                take(self.unreadable(error));
                return;
            }
        };
        for stored in messages {
            let found = match stored {
                Ok(stored) => self.found(stored, sender, recipients),
                Err(error) => self.unreadable(error),
            };
            if !take(found) {
                return;
            }
        }
    }

    fn found(&self, stored: Stored, sender: Option<&Address>, recipients: &[Address]) -> Found {
        let Stored { number, from_line, octets } = stored;
        let suffix = number.map(|number| format!("#{number}")).unwrap_or_default();
        let mut output = self.output.clone().into_os_string();
        output.push(&suffix);
        let size = octets.len() + from_line.as_ref().map_or(0, |line| line.len());
        let mut mail = StoredMail::new(format!("{}{suffix}", self.name), octets);
        let from_line = from_line.as_deref().and_then(sender_of);
        if let Some(sender) = sender.cloned().or(from_line) {
            mail.sender = sender;
        }
        mail.recipients = recipients.to_vec();
        Found { mail: Ok(mail), output: output.into(), octets: size as u64 }
    }

    fn unreadable(&self, error: io::Error) -> Found {
        let output = self.output.clone();
        Found { mail: Err((self.name.clone(), error)), output, octets: self.octets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &Source, sender: Option<&Address>) -> Vec<(String, String, PathBuf)> {
        let mut all = Vec::new();
        source.read(sender, &[], |found| {
            let mail = found.mail.unwrap();
            all.push((mail.name, mail.sender.to_string(), found.output));
            true
        });
        all
    }

    #[test]
    fn a_folder_is_walked_in_order_and_never_left() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("mails");
        fs::create_dir_all(root.join("b")).unwrap();
        for name in ["c.eml", "b/2.eml", "b/1.eml", "a.eml"] {
            fs::write(root.join(name), "A: b\n\n").unwrap();
        }
        fs::write(folder.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        let sources = find(std::slice::from_ref(&root)).unwrap();
        let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
        assert_eq!(names, ["a.eml", "b/1.eml", "b/2.eml", "c.eml"]);
        assert_eq!(sources[1].output, Path::new("b/1.eml"));
        let file = find(&[root.join("b/1.eml")]).unwrap();
        assert_eq!(file[0].output, Path::new("1.eml"));
        let error = find(&[root.join("none")]).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }

    #[test]
    fn the_sender_is_the_best_that_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("box");
        fs::write(
            &path,
            "From a@b Mon\nReturn-Path: <c@d>\n\n\nFrom - Mon\nReturn-Path: <c@d>\n\n\nFrom x\n\n",
        )
        .unwrap();
        let sources = find(&[path]).unwrap();
        let found = read(&sources[0], None);
        let senders: Vec<_> = found.iter().map(|(_, sender, _)| sender.as_str()).collect();
        assert_eq!(senders, ["<a@b>", "<c@d>", "<>"]);
        assert!(found[2].0.ends_with("box#3"));
        assert_eq!(found[2].2, Path::new("box#3"));
        let given = parse("<e@f>");
        assert!(read(&sources[0], Some(&given)).iter().all(|(_, sender, _)| sender == "<e@f>"));
    }

    fn parse(text: &str) -> Address {
        crate::event::parse_address(text).unwrap()
    }
}
