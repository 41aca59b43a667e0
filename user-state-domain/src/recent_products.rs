//! The most recently viewed products.

use serde::{Deserialize, Serialize};

use crate::product_id::ProductId;

/// How many products a user's state keeps.
pub const RECENT_PRODUCTS_MAX: usize = 3;

/// At most three distinct products, the most recently viewed first.
///
/// Its serde form is a list. Of a longer list, or one with duplicates, the first three distinct products are kept.
///
/// ```
/// use user_state_domain::{ProductId, RecentProducts};
///
/// let mut recent = RecentProducts::default();
/// for product in ["p1", "p2", "p3", "p1", "p4"] {
///     recent.view(ProductId::new(product));
/// }
/// let kept: Vec<&str> = recent.iter().map(ProductId::as_str).collect();
/// assert_eq!(kept, ["p4", "p1", "p3"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<ProductId>", into = "Vec<ProductId>")]
pub struct RecentProducts {
    /// Those behind the first `len` are empty.
    slots: [ProductId; RECENT_PRODUCTS_MAX],
    len: u8,
}

impl RecentProducts {
    /// Puts a product first; one that is known moves there, otherwise the oldest beyond three is forgotten.
    pub fn view(&mut self, product_id: ProductId) {
        let known = self.iter().position(|product| *product == product_id);
        let displaced = known.unwrap_or_else(|| self.make_room());
        if let Some(moved) = self.slots.get_mut(..=displaced) {
            moved.rotate_right(1);
        }
        let [first, ..] = &mut self.slots;
        *first = product_id;
    }

    /// The products, the most recent first.
    pub fn iter(&self) -> impl Iterator<Item = &ProductId> {
        self.slots.iter().take(self.len())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The place of one product more: behind the others, or the last one's.
    fn make_room(&mut self) -> usize {
        if self.len() < RECENT_PRODUCTS_MAX {
            self.len += 1;
        }
        self.len() - 1
    }
}

impl Default for RecentProducts {
    fn default() -> Self {
        Self {
            slots: [ProductId::EMPTY; RECENT_PRODUCTS_MAX],
            len: 0,
        }
    }
}

/// The first three distinct products of the list.
impl From<Vec<ProductId>> for RecentProducts {
    fn from(products: Vec<ProductId>) -> Self {
        products.into_iter().collect()
    }
}

/// The first three distinct products.
impl FromIterator<ProductId> for RecentProducts {
    fn from_iter<I: IntoIterator<Item = ProductId>>(products: I) -> Self {
        let mut kept = Self::default();
        kept.extend(products);
        kept
    }
}

/// Behind those there are, products that are new, while there is room.
impl Extend<ProductId> for RecentProducts {
    fn extend<I: IntoIterator<Item = ProductId>>(&mut self, products: I) {
        for product in products {
            if self.iter().any(|known| *known == product) {
                continue;
            }
            let next = self.len();
            let Some(free) = self.slots.get_mut(next) else {
                break;
            };
            *free = product;
            self.len += 1;
        }
    }
}

impl From<RecentProducts> for Vec<ProductId> {
    fn from(products: RecentProducts) -> Self {
        let len = products.len();
        products.slots.into_iter().take(len).collect()
    }
}
