// graphile-worker at its defaults: works off jobs that do nothing; says the seconds from the first start to the end of all.
import { Logger, makeWorkerUtils, runOnce } from "graphile-worker";

const [connectionString, jobs, concurrency] = [process.argv[3], Number(process.argv[4]), Number(process.argv[5])];
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ connectionString, logger });
await utils.migrate();
await utils.addJobs(Array.from({ length: jobs }, () => ({ identifier: "noop", payload: {} })));
await utils.release();
let began;
await runOnce({ connectionString, concurrency, logger, taskList: { noop: () => { began ??= performance.now(); } } });
console.log((performance.now() - began) / 1000);
