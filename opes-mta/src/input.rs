//! Room for what is read next.

use bytes::BytesMut;

/// Room for so many octets more behind those that have come. Where there is none those few move to a new place of
/// just that size: [`BytesMut::reserve`] moves the whole old place along, to one of twice the size.
pub(crate) fn make_room(input: &mut BytesMut, octets: usize) {
    if !input.try_reclaim(octets) {
        let mut place = BytesMut::with_capacity(input.len() + octets);
        place.extend_from_slice(input);
        *input = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_stays_and_the_place_is_as_large_as_it_has_to_be() {
        let mut input = BytesMut::new();
        make_room(&mut input, 100);
        assert_eq!((&input[..], input.capacity()), (&b""[..], 100));
        input.extend_from_slice(&[b'x'; 100]);
        let taken = input.split_to(97);
        make_room(&mut input, 200);
        assert_eq!((&input[..], input.capacity()), (&b"xxx"[..], 203));
        drop(taken);
        // The place is used again where that will do.
        input.extend_from_slice(&[b'y'; 200]);
        drop(input.split_to(203));
        let place = input.as_ptr();
        make_room(&mut input, 203);
        assert_eq!(input.capacity(), 203);
        assert_eq!(place.wrapping_sub(203), input.as_ptr());
    }
}
