//! The rows of an array map, by index. Ids are given out close together, so a
//! plain list takes less memory than a hash table, and is read in order.

/// Like a map from `u32`.
#[derive(Clone, Debug, PartialEq)]
pub struct ById<V> {
    /// The last is `Some`.
    rows: Vec<Option<V>>,
    used: usize,
}

impl<V> Default for ById<V> {
    fn default() -> Self {
        Self { rows: Vec::new(), used: 0 }
    }
}

impl<V> ById<V> {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub fn get(&self, id: &u32) -> Option<&V> {
        self.rows.get(*id as usize)?.as_ref()
    }

    pub fn contains_key(&self, id: &u32) -> bool {
        self.get(id).is_some()
    }

    /// Returns the row that stood there.
    pub fn insert(&mut self, id: u32, row: V) -> Option<V> {
        let index = id as usize;
        if index >= self.rows.len() {
            let missing = index + 1 - self.rows.len();
            if self.rows.capacity() <= index {
                // An eighth more, not twice as much: there may be many.
                self.rows.reserve_exact(missing + self.rows.len() / 8);
            }
            self.rows.resize_with(index + 1, || None);
        }
        let before = self.rows[index].replace(row);
        self.used += usize::from(before.is_none());
        before
    }

    pub fn remove(&mut self, id: &u32) -> Option<V> {
        let before = self.rows.get_mut(*id as usize)?.take();
        self.used -= usize::from(before.is_some());
        self.strip();
        before
    }

    pub fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        for row in &mut self.rows {
            if row.as_ref().is_some_and(|value| !keep(value)) {
                *row = None;
                self.used -= 1;
            }
        }
        self.strip();
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        (0..).zip(&self.rows).filter_map(|(id, row)| Some((id, row.as_ref()?)))
    }

    /// In ascending order.
    pub fn keys(&self) -> impl Iterator<Item = u32> + Clone {
        (0..).zip(&self.rows).filter_map(|(id, row)| row.is_some().then_some(id))
    }

    fn strip(&mut self) {
        while self.rows.last().is_some_and(Option::is_none) {
            self.rows.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_does_not_depend_on_what_was_there() {
        let mut rows = ById::default();
        assert_eq!([rows.insert(7, 'a'), rows.insert(2, 'b'), rows.insert(7, 'c')], [None, None, Some('a')]);
        assert_eq!(rows.iter().collect::<Vec<_>>(), [(2, &'b'), (7, &'c')]);
        assert_eq!([rows.remove(&7), rows.remove(&7), rows.remove(&9)], [Some('c'), None, None]);
        let mut same = ById::default();
        same.insert(2, 'b');
        assert_eq!((rows.len(), &rows), (1, &same));
        rows.retain(|row| *row != 'b');
        assert!(rows.is_empty() && rows == ById::default());
    }
}
