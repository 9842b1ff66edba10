/* hub_server.h - a hub on the loopback interface: one origin that redirects, one storage host that has the bytes.
 *
 * Both listen on 127.0.0.1 only, on ports that the system picks.  The origin answers /OWNER/REPOSITORY/resolve/... with
 * 302, X-Linked-Size and X-Linked-ETag; the storage host answers ranges.  Every kind of misbehaviour is a field.
 * Thread: fields are set while it does not run; it may be stopped and started again, on other ports and with counters
 * at zero.  Counters are read with hub_server_count() while it runs. */
#ifndef DS4_TESTS_SUPPORT_HUB_SERVER_H
#define DS4_TESTS_SUPPORT_HUB_SERVER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HUB_SERVER_PEERS 512	/* connections in the life of one server */

/* The file: HUB_FILE_BYTES bytes, byte i = ((i * 2654435761 mod 2^32) >> 24) xor (i >> 12 mod 256). */
#define HUB_FILE_BYTES 3146003
/* sha256sum of it, written by Python. */
#define HUB_FILE_SHA256 "ef3ea3aa850de32a99492c47854882b91db83e1f631df0043c5680ab13fb7f0c"

uint8_t hub_file_byte(uint64_t i);

/* An answer that is not the file, given `times` times (-1: always) after `after` bytes have been sent. */
struct hub_failure {
	int status, times;
	int retry_after;		/* seconds; 0 = no header */
	uint64_t after;
	int64_t total;			/* in the Content-Range of a 416; 0 = the right one */
};

struct hub_counts {
	int origin_requests, storage_requests;
	int origin_tokens, storage_tokens;	/* requests with an Authorization header */
	int parallel;				/* most requests answered at once */
	uint64_t body_bytes;			/* of the file, sent by either */
};

struct hub_server {
	/* the origin */
	const char *token;		/* required; NULL = none */
	bool direct;			/* has the bytes itself: no redirect */
	bool no_digest;			/* neither X-Linked-ETag nor ETag */
	bool plain_etag;		/* ETag instead of X-Linked-ETag */
	bool relative;			/* one redirect on the same host first */
	bool endless;			/* redirects to itself */
	const char *digest;		/* instead of the right one */
	int64_t linked_size;		/* instead of the right one; -1 = no header */
	const char *location;		/* instead of the storage host */
	const char *storage_name;	/* host name in the redirect: "127.0.0.1" or "localhost" */
	struct hub_failure origin_failure;

	/* the bytes */
	bool ignores_range;		/* 200 and the whole file */
	bool no_length;			/* ... without Content-Length */
	bool shifted;			/* Content-Range begins a byte later than asked */
	bool no_content_range;
	bool longer;			/* sends more than asked, without Content-Length */
	int64_t total;			/* in Content-Range, instead of the right one */
	int64_t wrong_byte;		/* this byte is wrong; -1 = none */
	uint64_t cut_after;		/* closes after so many bytes of each answer; 0 = never */
	int cuts;			/* so many times; -1 = always */
	uint64_t stall_after;		/* sends so many bytes of an answer, then nothing; 0 = never */
	int stalls;
	uint64_t bytes_per_s;		/* of each answer; 0 = at once */
	int address_lasts;		/* requests per signed address, then 403; 0 = for ever */
	struct hub_failure storage_failure;

	/* internal */
	int origin_fd, storage_fd;
	int origin_port, storage_port;
	pthread_t acceptor[2], peer[HUB_SERVER_PEERS];
	int peer_fd[HUB_SERVER_PEERS];
	int peers;
	pthread_mutex_t lock;
	bool stopping;
	int busy, signature, signature_uses;
	struct hub_counts counts;
	char base[64];			/* "http://127.0.0.1:PORT" of the origin */
};

void hub_server_init(struct hub_server *s);	/* well-behaved, not started */
bool hub_server_start(struct hub_server *s);	/* false: no socket */
void hub_server_stop(struct hub_server *s);	/* accepts one that does not run */
struct hub_counts hub_server_count(struct hub_server *s);

#endif
