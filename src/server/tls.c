/* tls.c - OpenSSL's context for the server; connections make their own state from it (conn.c). */
#include "server/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

static enum status failed(const char *file, struct err *err)
{
	char why[160];

	ERR_error_string_n(ERR_get_error(), why, sizeof why);
	ERR_clear_error();
	return err_set(err, ERR_IO, "%s: %s", file, why);
}

enum status tls_open(struct ssl_ctx_st **out, const char *cert, const char *key, struct err *err)
{
	SSL_CTX *t = SSL_CTX_new(TLS_server_method());
	enum status st = OK;

	*out = NULL;
	if (!t)
		return err_set(err, ERR_MEMORY, "no memory for TLS");
	SSL_CTX_set_min_proto_version(t, TLS1_2_VERSION);
	SSL_CTX_set_options(t, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	if (SSL_CTX_use_certificate_chain_file(t, cert) != 1)
		st = failed(cert, err);
	else if (SSL_CTX_use_PrivateKey_file(t, key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(t) != 1)
		st = failed(key, err);
	if (st != OK)
		SSL_CTX_free(t);
	else
		*out = t;
	return st;
}

void tls_close(struct ssl_ctx_st *t)
{
	SSL_CTX_free(t);
}
