// sdk.mjs - the openai and @anthropic-ai SDKs, with their stream helpers, against `ds4 serve --stub`.
// usage: node sdk.mjs PORT NODE_MODULES.  Prints "ok NAME" or "not ok NAME - why".
import { createRequire } from 'node:module';
import assert from 'node:assert/strict';
const port = process.argv[2], modules = process.argv[3];
const require = createRequire(modules + '/');
const OpenAI = require('openai').default ?? require('openai');
const Anthropic = require('@anthropic-ai/sdk').default ?? require('@anthropic-ai/sdk');
const openai = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'none', maxRetries: 2 });
const anthropic = new Anthropic({ baseURL: `http://127.0.0.1:${port}`, apiKey: 'none', maxRetries: 2 });
const model = 'deepseek-v4-flash';
const parameters = { type: 'object', properties: { location: { type: 'string' }, days: { type: 'integer' } }, required: ['location', 'days'], additionalProperties: false };
const chatTools = [{ type: 'function', function: { name: 'get_weather', description: 'Weather of a place', parameters, strict: true } }];
const blockTools = [{ name: 'get_weather', description: 'Weather of a place', input_schema: parameters }];
const flatTools = [{ type: 'function', name: 'get_weather', description: 'Weather of a place', parameters, strict: true }];
const WANT = { location: 'Paris', days: 2 };
let failures = 0;

async function check(name, f) {
	try {
		await f();
		console.log('ok ' + name);
	} catch (e) {
		failures++;
		console.log(`not ok ${name} - ${String(e.stack ?? e).split('\n').slice(0, 6).join(' | ')}`);
	}
}

await check('openai_lists_models', async () => {
	assert.equal((await openai.models.list()).data[0].id, model);
	assert.equal((await openai.models.retrieve(model)).object, 'model');
});

await check('anthropic_lists_models', async () => {
	const list = await anthropic.models.list();
	assert.equal(list.data[0].id, model);
	assert.equal(list.data[0].type, 'model');
});

// prompt -> call -> result -> answer, twice in one conversation
await check('openai_chat_stream_helper_two_rounds_of_tools', async () => {
	const messages = [{ role: 'user', content: 'weather in Paris?' }];
	for (let round = 0; round < 2; round++) {
		const call = await openai.chat.completions.stream({ model, messages, tools: chatTools, stream_options: { include_usage: true } }).finalChatCompletion();
		const m = call.choices[0].message;
		assert.equal(call.choices[0].finish_reason, 'tool_calls');
		assert.equal(m.tool_calls.length, 1);
		assert.deepEqual(JSON.parse(m.tool_calls[0].function.arguments), WANT);
		messages.push(m, { role: 'tool', tool_call_id: m.tool_calls[0].id, content: '{"t":21}' });
		const s = openai.chat.completions.stream({ model, messages, tools: chatTools, stream_options: { include_usage: true } });
		assert.equal(await s.finalContent(), 'It is 21 degrees.');
		const usage = await s.totalUsage();
		assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0);
		const done = (await s.finalChatCompletion()).choices[0];
		assert.equal(done.finish_reason, 'stop');
		messages.push(done.message, { role: 'user', content: 'and again?' });
	}
});

await check('openai_chat_plain_and_tool_runner', async () => {
	let asked = null;
	const runner = openai.chat.completions.runTools({ model, messages: [{ role: 'user', content: 'weather?' }], tools: [{ type: 'function', function: { name: 'get_weather', description: 'w', parameters, parse: JSON.parse, function: a => { asked = a; return '21'; } } }] });
	assert.equal(await runner.finalContent(), 'It is 21 degrees.');
	assert.deepEqual(asked, WANT);
});

await check('openai_completions', async () => {
	const c = await openai.completions.create({ model, prompt: 'Once', max_tokens: 5 });
	assert.equal(c.object, 'text_completion');
	let text = '';
	for await (const part of await openai.completions.create({ model, prompt: 'Once', max_tokens: 5, stream: true })) text += part.choices[0]?.text ?? '';
	assert.ok(text.length > 0);
});

await check('openai_responses_stream_helper_two_rounds_of_tools', async () => {
	let input = [{ role: 'user', content: 'weather in Paris?' }];
	for (let round = 0; round < 2; round++) {
		const call = await openai.responses.stream({ model, input, tools: flatTools, store: false, include: ['reasoning.encrypted_content'] }).finalResponse();
		const item = call.output.find(o => o.type === 'function_call');
		assert.equal(call.status, 'completed');
		assert.deepEqual(JSON.parse(item.arguments), WANT);
		input = [...input, ...call.output, { type: 'function_call_output', call_id: item.call_id, output: '{"t":21}' }];
		const s = openai.responses.stream({ model, input, tools: flatTools, store: false, include: ['reasoning.encrypted_content'] });
		let text = '';
		s.on('response.output_text.delta', e => { text += e.delta; });
		const done = await s.finalResponse();
		assert.equal(done.output_text ?? text, 'It is 21 degrees.');
		assert.equal(text, 'It is 21 degrees.');
		input = [...input, ...done.output, { role: 'user', content: 'and again?' }];
	}
});

await check('anthropic_stream_helper_two_rounds_of_tools', async () => {
	const messages = [{ role: 'user', content: 'weather in Paris?' }];
	for (let round = 0; round < 2; round++) {
		const call = await anthropic.messages.stream({ model, max_tokens: 2048, messages, tools: blockTools, thinking: { type: 'enabled', budget_tokens: 1024 } }).finalMessage();
		const use = call.content.find(b => b.type === 'tool_use');
		assert.equal(call.stop_reason, 'tool_use');
		assert.deepEqual(use.input, WANT);
		assert.ok(call.content.find(b => b.type === 'thinking').signature.length > 0);
		messages.push({ role: 'assistant', content: call.content }, { role: 'user', content: [{ type: 'tool_result', tool_use_id: use.id, content: '21C' }] });
		const s = anthropic.messages.stream({ model, max_tokens: 2048, messages, tools: blockTools, thinking: { type: 'enabled', budget_tokens: 1024 } });
		assert.equal(await s.finalText(), 'It is 21 degrees.');
		const done = await s.finalMessage();
		assert.equal(done.stop_reason, 'end_turn');
		assert.ok(done.usage.cache_read_input_tokens > 0, 'the history was read again');
		messages.push({ role: 'assistant', content: done.content }, { role: 'user', content: 'and again?' });
	}
});

await check('anthropic_counts_what_it_uses', async () => {
	const body = { model, messages: [{ role: 'user', content: 'hi' }], system: 'Be brief.' };
	const n = (await anthropic.messages.countTokens(body)).input_tokens;
	const m = await anthropic.messages.create({ ...body, max_tokens: 64 });
	assert.equal(m.usage.input_tokens + m.usage.cache_read_input_tokens + m.usage.cache_creation_input_tokens, n);
});

await check('an_overflow_is_a_bad_request_with_its_code', async () => {
	const long = 'word '.repeat(40000);
	await assert.rejects(openai.chat.completions.create({ model, messages: [{ role: 'user', content: long }] }), e => e instanceof OpenAI.BadRequestError && e.code === 'context_length_exceeded');
	await assert.rejects(anthropic.messages.create({ model, max_tokens: 5, messages: [{ role: 'user', content: long }] }), e => e instanceof Anthropic.BadRequestError && /prompt is too long: \d+ tokens > \d+ maximum/.test(e.message));
});

await check('a_stream_that_is_left_disturbs_nobody', async () => {
	const s = await openai.chat.completions.create({ model, messages: [{ role: 'user', content: 'weather?' }], stream: true });
	for await (const part of s) break;
	assert.equal((await fetch(`http://127.0.0.1:${port}/health`)).status, 200);
});
process.exit(failures ? 1 : 0);
