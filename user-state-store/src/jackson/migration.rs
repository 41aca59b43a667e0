//! Versions of a class, and the steps between them.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::error::DecodeError;
use crate::payload::Manifest;
use crate::settings::InvalidSetting;

/// The version of a class without any other.
const FIRST_VERSION: u32 = 1;

/// Changes a document of one version into the next one; the text says why it cannot.
type Transform = dyn Fn(&mut Value) -> Result<(), &'static str> + Send + Sync;

/// How the stored versions of a class are read by its current one: what Pekko's `JacksonMigration` is.
///
/// A class has version 1 until its fields change. Each [`upcast`](Self::upcast) then adds a version: the first one turns
/// documents of version 1 into version 2, and so on; the class is at the version after the last one. What is written
/// carries that version in the manifest, as `#n` from 2 on. An old row is brought up step by step when it is read,
/// and stays as it is until the next write.
///
/// While several releases of an application run, rows may be of a newer version than this one knows. A
/// [`downcast`](Self::downcast) adds such a version: the first one turns documents of the version after the current one
/// back, the second one those of the version after that. They are Pekko's `supportedForwardVersion`.
///
/// A version without a step is a [`DecodeError`], and its row stays untouched. Pekko does the same where a migration is
/// set; without one it ignores versions, and fields that the class does not have are lost with the next write. To read in
/// that way, say [`downcast_unchanged`](Self::downcast_unchanged).
///
/// Steps work on a tree, the same for JSON and CBOR. A step that cannot do its work says why with a text of its own, never
/// with one from the document, since errors are shown.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use user_state_store::{JacksonMigration, Manifest, PersistenceId, SerdeMapping, StateMapping};
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Stock {
///     sku: String,
///     pieces: u32,
///     shelf: Option<String>,
/// }
///
/// // Version 1 had `count` for `pieces`; version 2 came with `shelf`.
/// let migration = JacksonMigration::new()
///     .upcast(|document| {
///         let fields = document.as_object_mut().ok_or("not an object")?;
///         let pieces = fields.remove("count").ok_or("no count")?;
///         fields.insert("pieces".to_owned(), pieces);
///         Ok(())
///     })
///     .former_class_name("com.example.Article");
/// assert_eq!(migration.current_version(), 2);
///
/// let mapping = SerdeMapping::<Stock>::new("com.example.Stock").migration(migration);
/// let id = PersistenceId::of("Stock", "p-1")?;
/// let mut payload = mapping.encode(&id, &Stock::default())?;
/// assert_eq!(payload.manifest, Manifest::new("com.example.Stock#2"));
///
/// payload.manifest = Manifest::new("com.example.Article");
/// payload.bytes = br#"{"sku":"p-1","count":7}"#.to_vec();
/// let stock = Stock { sku: "p-1".to_owned(), pieces: 7, shelf: None };
/// assert_eq!(mapping.decode(&id, &payload)?, stock);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JacksonMigration {
    oldest: u32,
    /// From the oldest version upwards.
    up: Vec<Step>,
    /// From the version after the current one upwards.
    down: Vec<Step>,
    former_class_names: Vec<Box<str>>,
}

#[derive(Clone)]
enum Step {
    Unchanged,
    Transform(Arc<Transform>),
}

impl JacksonMigration {
    /// A class at version 1 that had no other.
    pub fn new() -> Self {
        Self {
            oldest: FIRST_VERSION,
            up: Vec::new(),
            down: Vec::new(),
            former_class_names: Vec::new(),
        }
    }

    /// A class whose oldest version that is still read is this one, counted from 1.
    ///
    /// # Errors
    /// For version 0.
    pub fn starting_at(oldest_version: u32) -> Result<Self, InvalidSetting> {
        InvalidSetting::unless_in("oldest_version", oldest_version, FIRST_VERSION..)?;
        Ok(Self {
            oldest: oldest_version,
            ..Self::new()
        })
    }

    /// Adds a version to the class, and how a document of the version before becomes one of it.
    #[must_use]
    pub fn upcast<F>(mut self, transform: F) -> Self
    where
        F: Fn(&mut Value) -> Result<(), &'static str> + Send + Sync + 'static,
    {
        self.up.push(Step::Transform(Arc::new(transform)));
        self
    }

    /// Adds a version to the class that reads documents of the version before as they are: all that is new is optional.
    #[must_use]
    pub fn upcast_unchanged(mut self) -> Self {
        self.up.push(Step::Unchanged);
        self
    }

    /// Adds a version that is newer than the class, and how a document of it becomes one of the version before.
    #[must_use]
    pub fn downcast<F>(mut self, transform: F) -> Self
    where
        F: Fn(&mut Value) -> Result<(), &'static str> + Send + Sync + 'static,
    {
        self.down.push(Step::Transform(Arc::new(transform)));
        self
    }

    /// Adds a version that is newer than the class, and whose documents are read as they are. What the class does
    /// not know of them is lost with the next write.
    #[must_use]
    pub fn downcast_unchanged(mut self) -> Self {
        self.down.push(Step::Unchanged);
        self
    }

    /// Another name that the class had. Rows that carry it are read like those with the present name.
    #[must_use]
    pub fn former_class_name(mut self, class_name: &str) -> Self {
        self.former_class_names.push(class_name.into());
        self
    }

    /// The version that is written.
    pub fn current_version(&self) -> u32 {
        self.oldest.saturating_add(count(&self.up))
    }

    /// The newest version that is read.
    pub fn supported_forward_version(&self) -> u32 {
        self.current_version().saturating_add(count(&self.down))
    }

    /// The manifest of the current version of a class.
    pub(super) fn manifest(&self, class_name: &str) -> Manifest {
        match self.current_version() {
            FIRST_VERSION => Manifest::new(class_name),
            version => Manifest::new(&format!("{class_name}#{version}")),
        }
    }

    /// What has to be done with a document of this manifest; nothing where it can be read as it is.
    pub(super) fn steps(
        &self,
        class_name: &str,
        stored: &Manifest,
    ) -> Result<Option<Steps<'_>>, DecodeError> {
        let mut names = self.former_class_names.iter();
        let found = stored.class_name();
        if found != class_name && !names.any(|former| **former == *found) {
            return Err(DecodeError::WrongManifest {
                expected: class_name.into(),
            });
        }
        let version = match stored.version() {
            Some(0) | None => return Err(DecodeError::MalformedVersion),
            Some(version) => version,
        };
        let steps = self.steps_from(version)?;
        Ok(steps.are_needed().then_some(steps))
    }

    fn steps_from(&self, version: u32) -> Result<Steps<'_>, DecodeError> {
        let current = self.current_version();
        let (direction, steps) = if version > current {
            let newer = DecodeError::NewerVersion {
                found: version,
                newest: self.supported_forward_version(),
            };
            let steps = take_first(&self.down, version - current);
            (Direction::Down, steps.ok_or(newer)?)
        } else {
            let older = DecodeError::OlderVersion {
                found: version,
                oldest: self.oldest,
            };
            let steps = take_last(&self.up, current - version);
            (Direction::Up, steps.ok_or(older)?)
        };
        Ok(Steps {
            from: version,
            direction,
            passed: steps,
        })
    }
}

impl Default for JacksonMigration {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for JacksonMigration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JacksonMigration")
            .field("oldest_version", &self.oldest)
            .field("current_version", &self.current_version())
            .field(
                "supported_forward_version",
                &self.supported_forward_version(),
            )
            .field("former_class_names", &self.former_class_names)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// The steps from a stored version to the current one.
pub(super) struct Steps<'a> {
    from: u32,
    direction: Direction,
    passed: &'a [Step],
}

impl Steps<'_> {
    fn are_needed(&self) -> bool {
        let transforms = |step: &Step| matches!(step, Step::Transform(_));
        self.passed.iter().any(transforms)
    }

    /// # Errors
    /// [`DecodeError::Migration`], with the version whose document was refused.
    pub(super) fn run(&self, document: &mut Value) -> Result<(), DecodeError> {
        for number in 0..self.passed.len() {
            let versions = u32::try_from(number).unwrap_or(u32::MAX);
            let (step, from) = match self.direction {
                Direction::Up => (self.passed.get(number), self.from.saturating_add(versions)),
                Direction::Down => (
                    self.passed.iter().rev().nth(number),
                    self.from.saturating_sub(versions),
                ),
            };
            if let Some(Step::Transform(transform)) = step {
                transform(document).map_err(|problem| DecodeError::Migration {
                    from,
                    problem: problem.into(),
                })?;
            }
        }
        Ok(())
    }
}

fn count(steps: &[Step]) -> u32 {
    u32::try_from(steps.len()).unwrap_or(u32::MAX)
}

fn take_first(steps: &[Step], count: u32) -> Option<&[Step]> {
    steps.get(..usize::try_from(count).ok()?)
}

fn take_last(steps: &[Step], count: u32) -> Option<&[Step]> {
    steps.get(steps.len().checked_sub(usize::try_from(count).ok()?)?..)
}
