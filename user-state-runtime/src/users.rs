//! The flagship: runtimes of user states.

use user_state_domain::{UserKey, UserState};
use user_state_store::{PersistenceId, Store, UserStateMapping};

use crate::builder::RuntimeBuilder;
use crate::entity_ref::EntityRef;
use crate::policy::ConflictPolicy;
use crate::runtime::Runtime;

impl Runtime<UserState> {
    /// A runtime of user states in their default form; see [`UserStateMapping`]. Commands that lost to another
    /// writer are handled once more.
    pub fn for_users(store: impl Into<Store>) -> RuntimeBuilder<UserState> {
        Self::for_users_as(store, UserStateMapping::default())
    }

    /// A runtime of user states in this form.
    pub fn for_users_as(
        store: impl Into<Store>,
        mapping: UserStateMapping,
    ) -> RuntimeBuilder<UserState> {
        Self::builder(store, mapping, ()).conflict_policy(ConflictPolicy::retry_once())
    }

    /// The handle to a user under the plain id `mallId-userId`.
    pub fn user(&self, key: &UserKey) -> EntityRef<UserState> {
        self.entity(PersistenceId::from(key))
    }
}
