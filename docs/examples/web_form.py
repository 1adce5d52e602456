"""A web form that restores the picture it is given: `uvicorn web_form:app`, then open http://127.0.0.1:8000.

It listens on this machine alone; put it behind your own login before others may reach it. FastAPI is here already
(Prefect brings it); the form needs `pip install python-multipart uvicorn`.
"""

from typing import Annotated

from fastapi import FastAPI, File
from fastapi.responses import HTMLResponse, Response
from PIL import Image

from mpsr import Restorer

PAGE = """<form action="/restore" method="post" enctype="multipart/form-data">
<input type="file" name="picture" accept="image/*"> <button>Restore</button></form>"""
app = FastAPI()
restorer = Restorer("compact")


@app.get("/")
def form() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.post("/restore")
def restore(picture: Annotated[bytes, File()]) -> Response:
    result = restorer(picture)
    if result.image is None:
        return HTMLResponse(f"{result.outcome}: {result.reason}", status_code=422)
    kind = Image.MIME[result.image.format or "PNG"]
    return Response(result.data, media_type=kind, headers={"X-Outcome": result.outcome})
