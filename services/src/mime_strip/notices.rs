//! Notices and their languages.

use std::collections::BTreeMap;
use std::path::Path;

use ocp_proto::smtp::Address;
use toml::Spanned;

use super::settings::MimeStripSettings;
use crate::mail_from::AddressList;
use crate::registry::SettingsError;

/// The longest notice in a file, in octets, before it is filled in.
const LONGEST: u64 = 64 * 1024;

/// A language among those that are known.
pub(super) type Language = usize;

/// The notices that are built in, each in UTF-8.
const BUILT_IN: [(&str, &str); 9] = [
    ("cs", "Příloha byla odstraněna.\nNázev: {name}\nTyp: {type}\nDůvod: {reason}\n"),
    ("de", "Ein Anhang wurde hier entfernt.\nName: {name}\nTyp: {type}\nGrund: {reason}\n"),
    ("en", "An attachment was removed here.\nName: {name}\nType: {type}\nReason: {reason}\n"),
    (
        "es",
        "Se ha eliminado aquí un archivo adjunto.\nNombre: {name}\nTipo: {type}\nMotivo: {reason}\n",
    ),
    (
        "fr",
        "Une pièce jointe a été supprimée ici.\nNom : {name}\nType : {type}\nMotif : {reason}\n",
    ),
    ("it", "Qui è stato rimosso un allegato.\nNome: {name}\nTipo: {type}\nMotivo: {reason}\n"),
    ("nl", "Hier is een bijlage verwijderd.\nNaam: {name}\nType: {type}\nReden: {reason}\n"),
    ("pl", "W tym miejscu usunięto załącznik.\nNazwa: {name}\nTyp: {type}\nPowód: {reason}\n"),
    ("pt", "Um anexo foi removido aqui.\nNome: {name}\nTipo: {type}\nMotivo: {reason}\n"),
];

/// The notices of all languages, and who reads which.
#[derive(Debug)]
pub(super) struct Notices {
    texts: Vec<(String, String)>,
    /// The language of everybody else.
    others: Language,
    readers: Vec<(AddressList, Language)>,
}

impl Notices {
    /// Reads the files of a configuration; their paths start at `directory`.
    pub(super) fn new(
        settings: &MimeStripSettings,
        directory: &Path,
    ) -> Result<Self, SettingsError> {
        let texts = texts(settings, directory)?;
        let mut notices = Self { texts, others: 0, readers: Vec::new() };
        notices.others = match &settings.language {
            Some(language) => notices.language(language)?,
            None => notices.named("en").unwrap_or_default(),
        };
        for of in &settings.languages {
            let recipients = AddressList::new(&of.recipients)?;
            let language = notices.language(&of.language)?;
            notices.readers.push((recipients, language));
        }
        Ok(notices)
    }

    /// The language of this name.
    ///
    /// # Errors
    /// If there is no notice in it.
    pub(super) fn language(&self, name: &Spanned<String>) -> Result<Language, SettingsError> {
        self.named(name.get_ref()).ok_or_else(|| {
            let known: Vec<_> = self.texts.iter().map(|(name, _)| name.as_str()).collect();
            let (name, span, known) = (name.get_ref(), name.span(), known.join(", "));
            let why = format!(
                "there is no notice in {name:?}: these languages have one: {known}; a file in notices adds others"
            );
            SettingsError::at(span, why)
        })
    }

    fn named(&self, name: &str) -> Option<Language> {
        self.texts.iter().position(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    /// What this recipient reads.
    pub(super) fn of(&self, recipient: &Address) -> Language {
        let named = self.readers.iter().find(|(list, _)| list.find(recipient).is_some());
        named.map_or(self.others, |(_, language)| *language)
    }

    /// What everybody else reads.
    pub(super) fn of_others(&self) -> Language {
        self.others
    }

    /// Whether recipients may read different ones.
    pub(super) fn differ(&self) -> bool {
        self.readers.iter().any(|(_, language)| *language != self.others)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.texts.len()
    }

    /// The notice in a language.
    pub(super) fn text(&self, language: Language) -> &str {
        self.texts.get(language).map_or("", |(_, text)| text)
    }
}

/// The notice of each language: the file for it, else the one of the configuration, else what is built in.
fn texts(
    settings: &MimeStripSettings,
    directory: &Path,
) -> Result<Vec<(String, String)>, SettingsError> {
    let mut texts: BTreeMap<String, String> = BUILT_IN
        .iter()
        .map(|(name, text)| {
            let text = settings.notice.as_deref().unwrap_or(text);
            ((*name).to_owned(), text.to_owned())
        })
        .collect();
    for (language, path) in &settings.notices {
        let file = directory.join(path.get_ref());
        let text = read(&file).map_err(|error| {
            let why = format!("notices: {}: {error}", file.display());
            SettingsError::at(path.span(), why)
        })?;
        texts.insert(language.to_lowercase(), text);
    }
    Ok(texts.into_iter().collect())
}

fn read(file: &Path) -> std::io::Result<String> {
    if std::fs::metadata(file)?.len() > LONGEST {
        return Err(std::io::Error::other(format!("it is larger than {LONGEST} octets")));
    }
    std::fs::read_to_string(file)
}
