//! Live entities on a durable state store.
