"""Other queues for Python at their defaults: works off jobs that do nothing; says the seconds from the first start to the end of all."""

import asyncio
import sys
import time

NAME, URL, JOBS, CONCURRENCY = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
began = None


def start():
    global began
    began = began or time.monotonic()


async def procrastinate():
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=URL))

    @app.task(name="noop")
    async def noop():
        start()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for _ in range(JOBS // 1000):
            await noop.batch_defer_async(*({} for _ in range(1000)))
        await app.run_worker_async(concurrency=CONCURRENCY, wait=False, install_signal_handlers=False)


async def pgqueuer():
    import asyncpg
    from pgqueuer import AsyncpgDriver, QueueManager
    from pgqueuer.queries import Queries
    from pgqueuer.types import QueueExecutionMode

    driver = AsyncpgDriver(await asyncpg.connect(URL))
    queries = Queries(driver)
    await queries.install()
    manager = QueueManager(queries)

    @manager.entrypoint("noop")
    async def noop(_job):
        start()

    for _ in range(JOBS // 1000):
        await queries.enqueue(["noop"] * 1000, [None] * 1000, [0] * 1000)
    await manager.run(batch_size=CONCURRENCY, mode=QueueExecutionMode.drain)


asyncio.run(procrastinate() if NAME == "procrastinate" else pgqueuer())
print(time.monotonic() - began)
