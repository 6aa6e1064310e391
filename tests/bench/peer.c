/* The filters that opes-mta is measured against: made with libmilter, they see everything of each session
 * and change nothing, or add one header field. `peer ADDRESS [add]` */

#include <libmilter/mfapi.h>

static int adds;

static sfsistat client(SMFICTX *context, char *host, _SOCK_ADDR *address)
{
	return SMFIS_CONTINUE;
}

static sfsistat command(SMFICTX *context, char *name)
{
	return SMFIS_CONTINUE;
}

static sfsistat address(SMFICTX *context, char **arguments)
{
	return SMFIS_CONTINUE;
}

static sfsistat header(SMFICTX *context, char *name, char *value)
{
	return SMFIS_CONTINUE;
}

static sfsistat stage(SMFICTX *context)
{
	return SMFIS_CONTINUE;
}

static sfsistat body(SMFICTX *context, unsigned char *octets, size_t length)
{
	return SMFIS_CONTINUE;
}

static sfsistat end(SMFICTX *context)
{
	if (adds && smfi_addheader(context, "X-Added", "by libmilter") == MI_FAILURE)
		return SMFIS_TEMPFAIL;
	return SMFIS_CONTINUE;
}

int main(int count, char **arguments)
{
	struct smfiDesc description = {
		.xxfi_name = "peer", .xxfi_version = SMFI_VERSION, .xxfi_flags = SMFIF_ADDHDRS,
		.xxfi_connect = client, .xxfi_helo = command, .xxfi_envfrom = address,
		.xxfi_envrcpt = address, .xxfi_data = stage, .xxfi_header = header,
		.xxfi_eoh = stage, .xxfi_body = body, .xxfi_eom = end,
	};
	adds = count > 2;
	if (count < 2 || smfi_setconn(arguments[1]) == MI_FAILURE
		|| smfi_register(description) == MI_FAILURE)
		return 1;
	return smfi_main();
}
