use super::*;

/// What Postfix 3.7 offers.
fn postfix() -> Offer {
    Offer::new(6, 0x1ff, 0x1f_ffff)
}

#[test]
fn no_more_is_agreed_on_than_is_wanted_and_offered() {
    let offered = Offer { actions: Actions::from_bits(0x3f), ..postfix() };
    let macros = vec![(MacroStage::Mail, vec![MacroName::new("i")])];
    let wanted = Wanted {
        needed_actions: Actions::ADD_FIELDS,
        useful_actions: Actions::CHANGE_SENDER.and(Actions::QUARANTINE),
        needed_steps: Steps::LEADING_SPACE,
        useful_steps: Steps::NO_UNKNOWN.and(Steps::DATA_1M),
        macros: macros.clone(),
    };
    let mut agreed = Agreed {
        actions: Actions::ADD_FIELDS.and(Actions::QUARANTINE),
        steps: Steps::LEADING_SPACE.and(Steps::NO_UNKNOWN),
        macros: Vec::new(),
    };
    assert_eq!(negotiate(&offered, &wanted), Ok(agreed.clone()));
    agreed.actions = agreed.actions.and(Actions::CHANGE_SENDER).and(Actions::SET_MACROS);
    agreed.macros = macros;
    assert_eq!(negotiate(&postfix(), &wanted), Ok(agreed));
}

#[test]
fn what_is_needed_and_missing_is_named() {
    let offered = Offer::new(6, 0x03, 0x7f);
    let wanted = Wanted {
        needed_actions: Actions::ADD_FIELDS.and(Actions::QUARANTINE).and(Actions::CHANGE_SENDER),
        ..Wanted::default()
    };
    let missing = negotiate(&offered, &wanted).unwrap_err();
    let text = "the MTA does not allow SMFIF_QUARANTINE SMFIF_CHGFROM, which is needed here";
    assert_eq!(missing.to_string(), text);
    let wanted = Wanted { needed_steps: Steps::LEADING_SPACE, ..Wanted::default() };
    let missing = negotiate(&offered, &wanted).unwrap_err();
    assert_eq!(missing.to_string(), "the MTA has no SMFIP_HDR_LEADSPC, which is needed here");
    let old = negotiate(&Offer::new(4, 0x1ff, 0x1f_ffff), &Wanted::default());
    assert_eq!(old, Err(CannotAgree::Version(4)));
    assert_eq!(Steps::from_bits(0x8000_0001).to_string(), "SMFIP_NOCONNECT 0x80000000");
}

#[test]
fn the_answer_is_that_of_libmilter() {
    let names = |names: &[&'static str]| names.iter().map(|n| MacroName::new(*n)).collect();
    let agreed = Agreed {
        actions: Actions::from_bits(0x1ff),
        steps: Steps::SKIP.and(Steps::REJECTED_RECIPIENTS).and(Steps::LEADING_SPACE),
        macros: vec![
            (MacroStage::Mail, names(&["{i}", "mail_addr"])),
            (MacroStage::Rcpt, names(&["rcpt_mailer"])),
        ],
    };
    let mut out = BytesMut::new();
    agreed.encode(&mut out);
    let expected = b"\0\0\0\x31O\0\0\0\x06\0\0\x01\xff\0\x10\x0c\0\
        \0\0\0\x02i {mail_addr}\0\0\0\0\x03{rcpt_mailer}\0";
    assert_eq!(&out[..], &expected[..]);
}

#[test]
fn packets_are_as_large_as_agreed() {
    let sizes = [(Steps::NONE, 65_535), (Steps::DATA_256K, 262_143), (Steps::DATA_1M, 1_048_575)];
    for (steps, size) in sizes {
        let agreed = Agreed { actions: Actions::NONE, steps, macros: Vec::new() };
        assert_eq!(agreed.maximum_data(), size);
    }
}
