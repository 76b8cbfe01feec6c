// Prints what npm's @huggingface/inference gives, as JSON; arguments: server, picture.
import { readFile } from "node:fs/promises";
import { InferenceClient } from "@huggingface/inference";

const [url, path] = process.argv.slice(2);
const client = new InferenceClient();
const picture = new Blob([await readFile(path)]);
const at = (task, model = "small") => `${url}/hf/${model}/${task}`;

async function errorOf(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return error.message;
  }
}

const classify = (data, model) =>
  client.imageClassification({ endpointUrl: at("image-classification", model), data });

console.log(
  JSON.stringify({
    features: await client.featureExtraction({
      endpointUrl: at("feature-extraction"),
      inputs: ["a cat", "a dog"],
      normalize: true,
    }),
    zeroShot: await client.zeroShotImageClassification({
      endpointUrl: at("zero-shot-image-classification"),
      inputs: { image: picture },
      parameters: { candidate_labels: ["dog", "cat"] },
    }),
    answer: await client.visualQuestionAnswering({
      endpointUrl: at("visual-question-answering"),
      inputs: { question: "is it a cat or a dog?", image: picture },
    }),
    classes: await classify(picture),
    damaged: await errorOf(classify(new Blob(["no picture"]))),
    unknown: await errorOf(classify(picture, "other")),
  }),
);
