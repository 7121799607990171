// The npm package openai: each encoding, a request a text, models, and the errors that it throws.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import OpenAI from 'openai';

const { embedding } = JSON.parse(readFileSync('given.json', 'utf8'));
const { model, texts } = embedding;
const client = new OpenAI({ baseURL: `${embedding.url}/v1`, apiKey: embedding.key, maxRetries: 0 });
const records = [];
const add = (kind, how, value, options = {}) => records.push({ server: 'embedding', kind, how, value, options });

function rows(answer) {
  assert.deepEqual(answer.data.map((item) => item.index), [...answer.data.keys()]);
  return answer.data.map((item) => item.embedding);
}

const answer = await client.embeddings.create({ model, input: texts });
assert.equal(answer.model, model);
add('vectors', 'its own encoding', rows(answer));
add('tokens', 'usage', answer.usage.prompt_tokens);
add('vectors', 'float', rows(await client.embeddings.create({ model, input: texts, encoding_format: 'float' })));
add('base64 vectors', 'base64', rows(await client.embeddings.create({ model, input: texts, encoding_format: 'base64' })));
const answers = await Promise.all(texts.map((input) => client.embeddings.create({ model, input })));
add('vectors', 'a request a text', answers.map((one) => rows(one)[0]));

const models = [];
for await (const found of client.models.list()) models.push(found.id);
assert.deepEqual(models, [model]);
assert.equal((await client.models.retrieve(model)).id, model);

await assert.rejects(client.embeddings.create({ model: 'another', input: 'x' }), (error) => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found' && error.message.includes(model));
await assert.rejects(client.embeddings.create({ model, input: [101, 2023, 102] }), (error) => error instanceof OpenAI.BadRequestError && error.message.includes('text'));
await assert.rejects(client.withOptions({ apiKey: 'another' }).embeddings.create({ model, input: 'x' }), OpenAI.AuthenticationError);

writeFileSync('results.json', JSON.stringify(records));
