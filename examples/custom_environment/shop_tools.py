"""The shop: a SQLite database, and two tools that work on it."""

import sqlite3

from rwml import Message, Tool, ToolCall

ORDERS = {f"W{n}": "delivered" if n % 3 == 0 else "pending" for n in range(1, 41)}
SQL = {
    "order_status": "select status from orders where id = ?",
    "cancel_order": "update orders set status = 'cancelled' where id = ? returning status",
}
_ORDER = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
TOOLS = tuple(Tool(name=name, parameters=_ORDER) for name in SQL)


def open_shop() -> sqlite3.Connection:
    """A database of one episode's own."""
    database = sqlite3.connect(":memory:")
    database.execute("create table orders(id text, status text)")
    database.executemany("insert into orders values (?, ?)", ORDERS.items())
    return database


def call_tool(database: sqlite3.Connection, call: ToolCall) -> Message:
    """What a tool answers; a call that cannot work is the agent's mistake, and says so."""
    if call.name not in SQL:
        answer = f"Error: no tool {call.name}"
    else:
        order = str(call.arguments.get("order"))
        row = database.execute(SQL[call.name], (order,)).fetchone()
        answer = row[0] if row else f"Error: no order {order}"
    return Message(role="tool", tool_call_id=call.id, name=call.name, content=answer)


def orders(database: sqlite3.Connection) -> dict[str, str]:
    """All orders and their status."""
    return dict(database.execute("select id, status from orders"))
