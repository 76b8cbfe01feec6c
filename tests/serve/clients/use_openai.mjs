// Prints what npm's openai gives, as JSON; arguments: the address of the server.
import OpenAI from "openai";

const [url] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "key" });

async function errorOf(body) {
  try {
    await client.embeddings.create(body);
    return null;
  } catch (error) {
    const { status, code, param } = error;
    return { name: error.constructor.name, status, code, param };
  }
}

const embed = async (options) =>
  (await client.embeddings.create({ model: "small", input: ["a cat", "a dog"], ...options })).data;
const models = [];
for await (const model of client.models.list()) models.push(model.id);

console.log(
  JSON.stringify({
    base64: await embed({}),
    float: await embed({ encoding_format: "float" }),
    models,
    model: (await client.models.retrieve("small")).id,
    unknown: await errorOf({ model: "other", input: "a" }),
    tokens: await errorOf({ model: "small", input: [1, 2] }),
    empty: await errorOf({ model: "small", input: "" }),
  }),
);
