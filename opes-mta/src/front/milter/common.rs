//! What two lists have in common.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Pairs of positions, increasing in both lists, at which they hold the same: a common subsequence.
///
/// It is the longest one if no item stands in a list twice, or if the lists differ in one stretch only.
/// Otherwise the n-th of equal items is taken for the n-th in the other list, so that n items take time
/// n log n whatever a peer made up.
pub(super) fn common<K: Copy + Eq + Hash>(old: &[K], new: &[K]) -> Vec<(usize, usize)> {
    let same = |(old, new): &(&K, &K)| old == new;
    let front = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) =
        (old.get(front..).unwrap_or_default(), new.get(front..).unwrap_or_default());
    let back = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(same).count();
    let (old_end, new_end) = (old.len() - back, new.len() - back);

    let mut places: HashMap<K, VecDeque<usize>> = HashMap::new();
    for (at, &item) in old.iter().enumerate().take(old_end).skip(front) {
        places.entry(item).or_default().push_back(at);
    }
    let candidates: Vec<(usize, usize)> = new
        .iter()
        .enumerate()
        .take(new_end)
        .skip(front)
        .filter_map(|(at, item)| Some((places.get_mut(item)?.pop_front()?, at)))
        .collect();

    let mut pairs: Vec<_> = (0..front).map(|at| (at, at)).collect();
    pairs.extend(longest_increasing(&candidates));
    pairs.extend((old_end..old.len()).zip(new_end..new.len()));
    pairs
}

/// The longest subsequence whose first numbers increase. The second ones increase already, and no first
/// number recurs.
fn longest_increasing(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // For each length: the pair that the sequence of that length with the smallest end ends with.
    let mut ends: Vec<((usize, usize), usize)> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (at, &pair) in pairs.iter().enumerate() {
        let length = ends.partition_point(|(end, _)| end.0 < pair.0);
        before.push(length.checked_sub(1).and_then(|shorter| Some(ends.get(shorter)?.1)));
        match ends.get_mut(length) {
            Some(end) => *end = (pair, at),
            None => ends.push((pair, at)),
        }
    }
    let mut longest = Vec::with_capacity(ends.len());
    let mut next = ends.last().map(|(_, at)| *at);
    while let Some(at) = next {
        longest.extend(pairs.get(at));
        next = before.get(at).copied().flatten();
    }
    longest.reverse();
    longest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stays_in_order_is_common() {
        let pairs = |old: &str, new: &str| common(old.as_bytes(), new.as_bytes());
        assert_eq!(pairs("abc", "abc"), [(0, 0), (1, 1), (2, 2)]);
        assert_eq!(pairs("abc", "xabcx"), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(pairs("aba", "ba"), [(1, 0), (2, 1)]);
        assert_eq!(pairs("aa", "aaa"), [(0, 0), (1, 1)]);
        assert_eq!(pairs("abcd", "dabc"), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(pairs("abcde", "xcyax"), [(0, 3)]);
        assert_eq!(pairs("", "a"), []);
    }

    #[test]
    fn a_hostile_list_takes_no_longer() {
        let old: Vec<u32> = (0..50_000).map(|at| at % 7).collect();
        let new: Vec<u32> = (0..50_000).rev().map(|at| at % 11).collect();
        let pairs = common(&old, &new);
        assert!(pairs.iter().all(|&(a, b)| old[a] == new[b]));
    }

    /// The textbook's table.
    fn longest(old: &[u8], new: &[u8]) -> usize {
        let mut row = vec![0; new.len() + 1];
        for a in old {
            let mut corner = 0;
            for (at, b) in new.iter().enumerate() {
                let up = row[at + 1];
                row[at + 1] = if a == b { corner + 1 } else { up.max(row[at]) };
                corner = up;
            }
        }
        row[new.len()]
    }

    proptest! {
        #[test]
        fn pairs_are_a_common_subsequence(
            old in proptest::collection::vec(0u8..6, 0..12),
            new in proptest::collection::vec(0u8..6, 0..12),
        ) {
            let pairs = common(&old, &new);
            prop_assert!(pairs.iter().all(|&(a, b)| old[a] == new[b]));
            prop_assert!(pairs.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 < two[1].1));
        }

        #[test]
        fn without_doubles_it_is_the_longest(
            old in Just((0u8..12).collect::<Vec<_>>()).prop_shuffle(),
            new in proptest::sample::subsequence((0u8..20).collect::<Vec<_>>(), 0..14).prop_shuffle(),
        ) {
            prop_assert_eq!(common(&old, &new).len(), longest(&old, &new));
        }
    }
}
