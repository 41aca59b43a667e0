//! From lines of CSV to commands; what is broken is told with its line number.

use std::io::Read;

use chrono::{DateTime, NaiveDateTime, Utc};
use csv::{ByteRecord, Reader, ReaderBuilder};
use user_state_domain::{
    InvalidKey, MallId, ProductId, UserCommand, UserError, UserEvent, UserId, UserKey,
};

use crate::numbered::Numbered;

/// How event times are written, 23 characters.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S UTC";
const TIME_CHARACTERS: usize = 23;

/// How much of an unknown event type a message shows.
const TYPE_CHARACTERS_SHOWN: usize = 20;

/// A record that can be played.
#[derive(Debug)]
pub(crate) struct Record {
    /// When it happened.
    pub(crate) at: DateTime<Utc>,
    /// Whose behaviour it is.
    pub(crate) key: UserKey,
    /// The session it happened in.
    pub(crate) session: Box<str>,
    /// What it asks of the user's state.
    pub(crate) command: UserCommand,
}

/// A record, or what is wrong with it.
pub(crate) type Line = Result<Record, Rejection>;

/// A record that is skipped.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}; skipped")]
pub(crate) struct Rejection {
    line: u64,
    reason: Reason,
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("{found} columns instead of {expected}")]
    Columns { expected: usize, found: usize },
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("{0} is empty")]
    Empty(&'static str),
    #[error("event_time is not like 2019-10-01 00:00:00 UTC")]
    Time,
    #[error("unknown event_type {0:?}")]
    EventType(String),
    #[error("user_id: {0}")]
    Key(#[from] InvalidKey),
    #[error("product_id: {0}")]
    Product(#[from] UserError),
}

/// An input whose header is not that of records.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the header has no column {0}")]
    Missing(&'static str),
    #[error("cannot read the header: {0}")]
    Unreadable(#[from] csv::Error),
}

/// The records of an input, in its order.
pub(crate) struct Records<R> {
    reader: Reader<Numbered<R>>,
    columns: Columns,
    mall_id: MallId,
    record: ByteRecord,
}

/// Where the columns in use stand.
struct Columns {
    count: usize,
    event_time: Column,
    event_type: Column,
    product_id: Column,
    user_id: Column,
    user_session: Column,
}

#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    index: usize,
}

impl<R: Read> Records<R> {
    /// Reads the header.
    pub(crate) fn new(source: R, mall_id: MallId) -> Result<Self, HeaderError> {
        let mut reader = ReaderBuilder::new()
            .flexible(true)
            .from_reader(Numbered::new(source));
        let columns = Columns::of(reader.byte_headers()?)?;
        Ok(Self {
            reader,
            columns,
            mall_id,
            record: ByteRecord::new(),
        })
    }

    fn parse(&self) -> Result<Record, Reason> {
        let found = self.record.len();
        if found != self.columns.count {
            return Err(Reason::Columns {
                expected: self.columns.count,
                found,
            });
        }
        let at = time(self.field(self.columns.event_time)?)?;
        let event_type = self.field(self.columns.event_type)?;
        let product_id = ProductId::new(self.field(self.columns.product_id)?);
        let user_id = UserId::new(self.field(self.columns.user_id)?)?;
        let session = self.field(self.columns.user_session)?.into();
        let command = match event_type {
            "view" => UserCommand::ViewProduct { product_id, at },
            "cart" | "purchase" => UserCommand::UseCart { at },
            _ => {
                let shown = event_type.chars().take(TYPE_CHARACTERS_SHOWN).collect();
                return Err(Reason::EventType(shown));
            }
        };
        // What the domain would refuse is a broken record.
        UserEvent::try_from(command.clone())?;
        Ok(Record {
            at,
            key: UserKey::new(self.mall_id.clone(), user_id)?,
            session,
            command,
        })
    }

    fn field(&self, column: Column) -> Result<&str, Reason> {
        let bytes = self.record.get(column.index).unwrap_or_default();
        let text = std::str::from_utf8(bytes).map_err(|_| Reason::NotUtf8(column.name))?;
        if text.is_empty() {
            return Err(Reason::Empty(column.name));
        }
        Ok(text)
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Result<Line, csv::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(error)),
        }
        let start = self.record.position().map_or(0, csv::Position::byte);
        let line = self.reader.get_mut().line_at(start).unwrap_or_default();
        Some(Ok(self
            .parse()
            .map_err(|reason| Rejection { line, reason })))
    }
}

impl Columns {
    fn of(header: &ByteRecord) -> Result<Self, HeaderError> {
        let column = |name: &'static str| {
            let index = header.iter().position(|column| column == name.as_bytes());
            index
                .map(|index| Column { name, index })
                .ok_or(HeaderError::Missing(name))
        };
        Ok(Self {
            count: header.len(),
            event_time: column("event_time")?,
            event_type: column("event_type")?,
            product_id: column("product_id")?,
            user_id: column("user_id")?,
            user_session: column("user_session")?,
        })
    }
}

fn time(text: &str) -> Result<DateTime<Utc>, Reason> {
    if text.len() != TIME_CHARACTERS {
        return Err(Reason::Time);
    }
    NaiveDateTime::parse_from_str(text, TIME_FORMAT)
        .map(|time| time.and_utc())
        .map_err(|_| Reason::Time)
}
