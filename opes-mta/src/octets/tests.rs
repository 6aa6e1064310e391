use proptest::prelude::*;

use super::*;

fn files(octets: u64) -> TemporaryFiles {
    TemporaryFiles::new(&std::env::temp_dir(), octets)
}

fn stored(octets: &[u8]) -> Octets {
    let mut file = files(u64::MAX).file().unwrap();
    file.append(octets).unwrap();
    Stored::new(file).into()
}

#[test]
fn files_have_a_budget() {
    let files = files(10);
    let mut file = files.file().unwrap();
    file.append(b"0123456").unwrap();
    let full = files.file().unwrap().append(b"0123").unwrap_err();
    assert_eq!(full.to_string(), "temporary files have disk-octets already");
    let slice = Stored::new(file).slice(3..5);
    assert_eq!(slice.read().unwrap(), &b"34"[..]);
    assert!(files.file().unwrap().append(b"0123").is_err(), "a slice holds all of the file");
    drop(slice);
    files.file().unwrap().append(b"0123456789").unwrap();
}

#[test]
fn blocks_are_all_of_the_octets() {
    for length in [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1] {
        let octets: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
        for kind in [stored(&octets), Octets::Memory(octets.clone().into())] {
            let blocks: Vec<_> = kind.blocks().map(Result::unwrap).collect();
            assert!(blocks.concat() == octets, "{length}");
            assert!(kind.in_memory().is_some() || blocks.iter().all(|block| block.len() <= BLOCK));
        }
    }
}

proptest! {
    /// Two files, and memory: pieces of them are the same if they are the same places.
    #[test]
    fn how_octets_are_cut_makes_no_difference(
        places in prop::collection::vec((0..3_usize, 0..9_usize, 0..9_usize), 0..6),
        others in prop::collection::vec((0..3_usize, 0..9_usize, 0..9_usize), 0..6),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..9_usize), 0..6),
    ) {
        let whole = b"abababab";
        let kinds = [stored(whole), stored(whole), Octets::from(Bytes::from_static(whole))];
        let slice = |&(kind, a, b): &(usize, usize, usize)| (kind, a.min(b).min(8)..a.max(b).min(8));
        let octets = |places: &[(usize, Range<usize>)]| {
            places.iter().map(|(kind, range)| kinds[*kind].slice(range.clone())).collect::<Vec<_>>()
        };
        // What each octet is: its place in a file, or itself.
        let named = |places: &[(usize, Range<usize>)]| {
            let name = |kind: usize, at| if kind < 2 { (kind, at) } else { (kind, usize::from(whole[at])) };
            let all = places.iter().flat_map(|(kind, range)| range.clone().map(|at| name(*kind, at)));
            all.collect::<Vec<_>>()
        };
        let places: Vec<_> = places.iter().map(slice).collect();
        let others: Vec<_> = others.iter().map(slice).collect();
        prop_assert_eq!(
            is_same(&octets(&places), &octets(&others)),
            named(&places) == named(&others)
        );
        let mut cut = places.clone();
        for (at, length) in cuts {
            if !cut.is_empty() {
                let at = at.index(cut.len());
                let (kind, range) = cut[at].clone();
                let middle = (range.start + length).min(range.end);
                cut[at].1.end = middle;
                cut.insert(at + 1, (kind, middle..range.end));
            }
        }
        prop_assert!(is_same(&octets(&cut), &octets(&places)));
    }
}
