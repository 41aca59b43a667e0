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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<ProductId>", into = "Vec<ProductId>")]
pub struct RecentProducts([Option<ProductId>; RECENT_PRODUCTS_MAX]);

impl RecentProducts {
    /// Puts a product first; one that is known moves there, otherwise the oldest beyond three is forgotten.
    pub fn view(&mut self, product_id: ProductId) {
        let product_id = Some(product_id);
        let known = self.0.iter().position(|slot| *slot == product_id);
        let displaced = known.unwrap_or(RECENT_PRODUCTS_MAX - 1);
        if let Some(moved) = self.0.get_mut(..=displaced) {
            moved.rotate_right(1);
        }
        let [first, ..] = &mut self.0;
        *first = product_id;
    }

    /// The products, the most recent first.
    pub fn iter(&self) -> impl Iterator<Item = &ProductId> {
        self.0.iter().flatten()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
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
            let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) else {
                break;
            };
            *free = Some(product);
        }
    }
}

impl From<RecentProducts> for Vec<ProductId> {
    fn from(products: RecentProducts) -> Self {
        products.0.into_iter().flatten().collect()
    }
}
