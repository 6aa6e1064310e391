/* The peer that our milter is compared with: the same answers by libmilter. */

#include <libmilter/mfapi.h>
#include <string.h>

static int silent;

struct message { char sender[256]; };

static sfsistat quiet(void)
{
	return silent ? SMFIS_NOREPLY : SMFIS_CONTINUE;
}

static sfsistat negotiate(SMFICTX *context, unsigned long actions, unsigned long steps,
	unsigned long f2, unsigned long f3, unsigned long *want_actions,
	unsigned long *want_steps, unsigned long *want_f2, unsigned long *want_f3)
{
	*want_actions = actions & 0x1ff;
	*want_steps = SMFIP_SKIP | SMFIP_RCPT_REJ | SMFIP_HDR_LEADSPC;
	if (silent)
		*want_steps |= SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_DATA | SMFIP_NR_UNKN
			| SMFIP_NR_BODY | SMFIP_NR_CONN | SMFIP_NR_HELO;
	*want_f2 = *want_f3 = 0;
	smfi_setsymlist(context, SMFIM_ENVFROM, "i {mail_addr}");
	smfi_setsymlist(context, SMFIM_ENVRCPT, "i {rcpt_addr} {rcpt_host} {rcpt_mailer}");
	return SMFIS_CONTINUE;
}

static sfsistat client(SMFICTX *context, char *host, _SOCK_ADDR *address)
{
	return quiet();
}

static sfsistat helo(SMFICTX *context, char *name)
{
	return quiet();
}

static sfsistat mail(SMFICTX *context, char **arguments)
{
	static struct message message;
	strncpy(message.sender, arguments[0], sizeof message.sender - 1);
	smfi_setpriv(context, &message);
	if (strstr(arguments[0], "refused"))
		return SMFIS_REJECT;
	if (strstr(arguments[0], "later"))
		return SMFIS_TEMPFAIL;
	if (strstr(arguments[0], "taken"))
		return SMFIS_ACCEPT;
	if (strstr(arguments[0], "thrown"))
		return SMFIS_DISCARD;
	return SMFIS_CONTINUE;
}

static sfsistat rcpt(SMFICTX *context, char **arguments)
{
	if (strstr(arguments[0], "refused")) {
		smfi_setmlreply(context, "550", "5.7.1", "not here,", "100%% sure", NULL);
		return SMFIS_REJECT;
	}
	return SMFIS_CONTINUE;
}

static sfsistat data(SMFICTX *context)
{
	return quiet();
}

static sfsistat unknown(SMFICTX *context, const char *line)
{
	return quiet();
}

static sfsistat header(SMFICTX *context, char *name, char *value)
{
	return quiet();
}

static sfsistat end_of_header(SMFICTX *context)
{
	return quiet();
}

static sfsistat body(SMFICTX *context, unsigned char *octets, size_t length)
{
	struct message *message = smfi_getpriv(context);
	if (!silent && strstr(message->sender, "front"))
		return SMFIS_SKIP;
	return quiet();
}

static sfsistat end(SMFICTX *context)
{
	static unsigned char text[70000];
	struct message *message = smfi_getpriv(context);
	if (strstr(message->sender, "unwanted")) {
		smfi_setreply(context, "554", "5.7.1", "unwanted");
		return SMFIS_REJECT;
	}
	if (strstr(message->sender, "changed")) {
		smfi_progress(context);
		smfi_addheader(context, "X-Added", " one\n\ttwo");
		smfi_insheader(context, 0, "X-First", " yes");
		smfi_chgheader(context, "Subject", 1, " new");
		smfi_chgheader(context, "X-Gone", 1, "");
		smfi_chgfrom(context, "<new@example.com>", "RET=HDRS");
		smfi_addrcpt(context, "<more@example.com>");
		smfi_addrcpt_par(context, "<most@example.com>", "NOTIFY=NEVER");
		smfi_delrcpt(context, "<b@example.com>");
		memset(text, 'x', sizeof text);
		smfi_replacebody(context, text, sizeof text);
		smfi_quarantine(context, "for review");
	}
	return SMFIS_CONTINUE;
}

static sfsistat closed(SMFICTX *context)
{
	smfi_setpriv(context, NULL);
	return SMFIS_CONTINUE;
}

int main(int count, char **arguments)
{
	struct smfiDesc description = {
		.xxfi_name = "peer", .xxfi_version = SMFI_VERSION, .xxfi_flags = 0x1ff,
		.xxfi_connect = client, .xxfi_helo = helo, .xxfi_envfrom = mail,
		.xxfi_envrcpt = rcpt, .xxfi_header = header, .xxfi_eoh = end_of_header,
		.xxfi_body = body, .xxfi_eom = end, .xxfi_close = closed,
		.xxfi_unknown = unknown, .xxfi_data = data, .xxfi_negotiate = negotiate,
	};
	silent = count > 2;
	if (smfi_setconn(arguments[1]) == MI_FAILURE || smfi_register(description) == MI_FAILURE)
		return 1;
	return smfi_main();
}
