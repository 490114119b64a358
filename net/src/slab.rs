//! Values by a small number that is reused, for what exists only while an operation is in flight.

#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Returns the key under which `value` is found.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "one entry per socket, and indices have 28 bits"
    )]
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(key) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(key as usize)
        {
            *entry = Some(value);
            return key;
        }
        self.entries.push(Some(value));
        (self.entries.len() - 1) as u32
    }

    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.entries.get(key as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.entries.get_mut(key as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, key: u32) -> Option<T> {
        let value = self.entries.get_mut(key as usize)?.take()?;
        self.free.push(key);
        Some(value)
    }

    /// All keys are below it.
    #[expect(clippy::cast_possible_truncation, reason = "as in `insert`")]
    pub(crate) fn keys_end(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Bytes the table itself takes.
    pub(crate) fn table_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Option<T>>() + self.free.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_used_again_only_after_its_value_was_removed() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!(slab.remove(first), Some('a'));
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.insert('c'), first);
        assert_eq!(slab.get(second), Some(&'b'));
    }
}
