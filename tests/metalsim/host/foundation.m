/* foundation.m - see Foundation.h.
 *
 * Careful: clang lays a constant string out as isa, characters, length; it is never counted. */
#import <Foundation/Foundation.h>

#include <stdio.h>
#include <stdlib.h>

long sim_objects;

static struct {
	Class c;
	long n;
} tally[64];

static void count_object(Class c, int d)
{
	__atomic_fetch_add(&sim_objects, d, __ATOMIC_RELAXED);
	for (int i = 0; i < 64; i++) {
		if (!tally[i].c)
			tally[i].c = c;
		if (tally[i].c == c) {
			__atomic_fetch_add(&tally[i].n, d, __ATOMIC_RELAXED);
			return;
		}
	}
}

void sim_list_objects(void)
{
	for (int i = 0; i < 64 && tally[i].c; i++)
		if (tally[i].n)
			fprintf(stderr, "metalsim: %ld objects of class %s are alive\n", tally[i].n, class_getName(tally[i].c));
}

static __thread struct {
	id *v;
	NSUInteger n, room;
} pool;

@implementation NSObject

+ (void)initialize
{
}

+ (id)alloc
{
	NSObject *o = class_createInstance(self, 0);

	o->count = 1;
	count_object(self, 1);
	return o;
}

+ (id)new
{
	return [[self alloc] init];
}

+ (Class)class
{
	return self;
}

- (id)init
{
	return self;
}

- (id)retain
{
	__atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
	return self;
}

- (oneway void)release
{
	int left = __atomic_sub_fetch(&count, 1, __ATOMIC_ACQ_REL);

	if (left == 0) {
		[self dealloc];
	} else if (left < 0) {
		fprintf(stderr, "metalsim: a %s is released once too often\n", class_getName(isa));
		abort();
	}
}

- (void)dealloc
{
	count_object(isa, -1);
	object_dispose(self);
}

- (NSUInteger)retainCount
{
	return (NSUInteger)count;
}

- (id)autorelease
{
	if (pool.n == pool.room) {
		pool.room = pool.room ? pool.room * 2 : 64;
		pool.v = realloc(pool.v, pool.room * sizeof(id));
	}
	pool.v[pool.n++] = self;
	return self;
}

- (BOOL)respondsToSelector:(SEL)s
{
	return class_respondsToSelector(isa, s);
}

- (void)doesNotRecognizeSelector:(SEL)s
{
	fprintf(stderr, "metalsim: a %s does not respond to %s\n", class_getName(isa), sel_getName(s));
	abort();
}

@end

@implementation NSAutoreleasePool

- (id)init
{
	mark = pool.n;
	return self;
}

- (void)drain
{
	while (pool.n > mark)
		[pool.v[--pool.n] release];
	[self release];
}

@end

@interface SimString : NSString {
@public
	char *s;
}
@end

@implementation NSString

+ (instancetype)stringWithUTF8String:(const char *)text
{
	SimString *o = [SimString new];

	o->s = strdup(text);
	return [o autorelease];
}

- (const char *)UTF8String
{
	return "";
}

- (NSUInteger)length
{
	return strlen([self UTF8String]);
}

@end

@implementation SimString

- (const char *)UTF8String
{
	return s;
}

- (void)dealloc
{
	free(s);
	[super dealloc];
}

@end

@implementation NSConstantString

- (const char *)UTF8String
{
	return *(char **)((char *)self + sizeof(Class));
}

- (id)retain
{
	return self;
}

- (oneway void)release
{
}

- (id)autorelease
{
	return self;
}

@end

@implementation NSError

+ (NSError *)simError:(const char *)message
{
	NSError *e = [self new];

	e->text = [[NSString stringWithUTF8String:message] retain];
	return [e autorelease];
}

- (NSString *)localizedDescription
{
	return text;
}

- (void)dealloc
{
	[text release];
	[super dealloc];
}

@end
