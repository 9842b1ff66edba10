/* tls.h - a certificate and its key for HTTPS. */
#ifndef DS4_SERVER_TLS_H
#define DS4_SERVER_TLS_H

#include "base/status.h"

struct ssl_ctx_st;

/* PEM files: the certificate with what follows it up to the root, and its key.  TLS 1.2 and later. */
enum status tls_open(struct ssl_ctx_st **out, const char *cert, const char *key, struct err *err);
void tls_close(struct ssl_ctx_st *t);

#endif
